"""Describes the machine, the commit and the versions that a benchmark ran with."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_CHECKOUT = Path(__file__).resolve().parents[2]
_UNKNOWN_CACHE = 32 << 20


def provenance(command: str, device: torch.device) -> dict[str, Any]:
    """The origin of a result file: ``command``, ``date``, ``commit``, ``machine``, ``versions``."""
    return {
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": describe(device),
        "versions": versions(),
    }


def kind(device: torch.device) -> str:
    """The machine's part of a result file's name: "cpu-" and its ``microarchitecture``, or the name of the GPU."""
    if device.type == "cpu":
        return "-".join(filter(None, ("cpu", microarchitecture(_cpu_info()))))
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def describe(device: torch.device) -> dict[str, object]:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_gpu = device.type == "cuda"
    return {
        "kind": kind(device),
        "cpu": _cpu_model(),
        "cores": cpus,
        "threads": torch.get_num_threads(),
        "last_level_cache_bytes": last_level_cache(device),
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "driver": _driver() if on_gpu else None,
        "system": platform.system(),
        "busy": busy(),
    }


def versions() -> dict[str, str | None]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": installed("triton"),
        "cuda": torch.version.cuda,
    }


def commit() -> dict[str, object]:
    """``revision``, the commit that ran, and ``dirty``, True if any file but results differs; None outside a checkout."""
    if not (_CHECKOUT / ".git").exists():
        return {"revision": None, "dirty": None}
    changes = _output("git", "status", "--porcelain", "--", ".", ":!benchmarks/results")
    dirty = None if changes is None else bool(changes)
    return {"revision": _output("git", "rev-parse", "HEAD"), "dirty": dirty}


def busy() -> bool:
    """True if other programs were running in the last minute; False if the system does not report its load."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5


@cache
def last_level_cache(device: torch.device) -> int:
    """The size of the last-level cache in bytes; 32 MiB if the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties().L2_cache_size)
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = [int(f.read_text().strip().removesuffix("K")) << 10 for f in folder.glob("index*/size")]
    return max(sizes, default=_UNKNOWN_CACHE)


def microarchitecture(info: Mapping[str, str]) -> str:
    """A short name for the CPU that /proc/cpuinfo describes: "zen2" to "zen5" for AMD's, "amx", "avx512" or "avx2" for
    others by the widest that they have, and "" for all that remain."""
    flags = info.get("flags", "").split()
    if info.get("vendor_id") == "AuthenticAMD":
        family, model = int(info["cpu family"]), int(info["model"])
        # Linux' table of models, arch/x86/kernel/cpu/amd.c: family 0x19 is Zen 3 and Zen 4, and only Zen 4 has AVX-512.
        zens = {
            0x17: "zen2" if model >= 0x30 else "",
            0x19: "zen4" if "avx512f" in flags else "zen3",
            0x1A: "zen5" if model < 0x80 and model >> 4 != 5 else "",
        }
        if name := zens.get(family):
            return name
    widest = {"amx_tile": "amx", "avx512f": "avx512", "avx2": "avx2"}
    return next((name for flag, name in widest.items() if flag in flags), "")


def _cpu_info() -> dict[str, str]:
    """The entries of /proc/cpuinfo for the first CPU; none where there is no such file."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().partition("\n\n")[0] if path.exists() else ""
    return {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())
    }


def _cpu_model() -> str:
    return _cpu_info().get("model name") or platform.processor() or platform.machine()


def _driver() -> str | None:
    drivers = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return drivers.splitlines()[0] if drivers else None


def installed(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(
            command, cwd=_CHECKOUT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

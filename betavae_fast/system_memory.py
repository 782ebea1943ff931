"""How much memory this process can still have."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes of memory that this process can still have without swapping, its container's limit included.

    Raises: ValueError where the system does not tell.
    """
    try:
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        machine = int(meminfo["MemAvailable"].removesuffix("kB")) * 1024
    except (OSError, KeyError):
        try:  # not Linux: what there is altogether
            machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            raise ValueError("this system does not tell how much memory it has") from None
    return min(machine, _container_memory(CGROUP) or machine)


def _container_memory(cgroup: Path) -> int | None:
    """Bytes that the control group (version 2) can still have; None where there is none or it has no limit."""
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if limit == "max" else max(1, int(limit) - int(used))

"""``betavae-fast info``."""

from __future__ import annotations


def info() -> None:
    """Show the settings and versions that a run depends on, and the backends: for each missing one, cause and remedy."""
    import os
    import platform

    import torch
    from rich.console import Console
    from rich.table import Table

    from betavae_fast import __version__
    from betavae_fast.data.cache import cache_directory
    from betavae_fast.nn import BetaVAE
    from betavae_fast.ops.backends import backend_table, cpu_capability
    from betavae_fast.training.device import resolve_device
    from betavae_fast.training.precision import ROWS, choose_precision

    console = Console(highlight=False, markup=False, soft_wrap=True)
    device = resolve_device("auto")
    model = BetaVAE().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision, why = choose_precision(model, ROWS, device)
    facts = {
        "betavae_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "device that auto takes": device,
        "precision that auto takes there": f"{precision}, {why}",
        "CPU instruction set": cpu_capability(),
        "CPU threads": f"{torch.get_num_threads()} of {os.cpu_count()} CPUs",
        "threads wait": _wait_policy(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "CUDA that the driver supports": _driver_version(),
        "CUDA that torch was built for": torch.version.cuda,
        "cache folder": cache_directory(),
    }
    for name, value in facts.items():
        console.print(f"{name}: {'none' if value is None else value}")
    table = Table("backend", "available", "cause and remedy if not")
    for row in backend_table():
        table.add_row(row.backend, "yes" if row.available else "no", row.reason)
    console.print(table)


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _wait_policy() -> str:
    """The way in which OpenMP's threads wait for work, from its environment variables."""
    import os

    told = [
        f"{name}={os.environ[name]}" for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ
    ]
    asleep = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    return f"{'asleep' if asleep else 'spinning'} ({', '.join(told) or 'OMP_WAIT_POLICY is not set'})"


def _driver_version() -> str | None:
    """The newest CUDA version that the installed driver supports. It is found even with a CPU build of torch."""
    import ctypes

    version = ctypes.c_int()
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            if ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version)) == 0:
                return f"{version.value // 1000}.{version.value % 1000 // 10}"
        except (OSError, AttributeError):
            continue
    return None

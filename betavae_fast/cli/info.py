"""``betavae-fast info``."""

from __future__ import annotations


def info() -> None:
    """Show which backends there are and, for each missing one, why and what brings it."""
    import platform

    import torch
    from rich.console import Console
    from rich.table import Table

    from betavae_fast.ops.backends import backend_table, cpu_capability

    console = Console(highlight=False, markup=False, soft_wrap=True)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "CPU instruction set": cpu_capability(),
        "CPU threads": torch.get_num_threads(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    for name, value in versions.items():
        console.print(f"{name}: {'none' if value is None else value}")
    table = Table("op", "backend", "available", "why not, and what brings it")
    for row in backend_table():
        table.add_row(row.op, row.backend, "yes" if row.available else "no", row.reason)
    console.print(table)


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None

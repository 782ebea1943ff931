"""Options that several commands share."""

from __future__ import annotations

import os
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", show_default="torch's choice")]
RunData = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="The run's images, if they have moved, or other images: a name or a path.",
        show_default="where the run found them",
    ),
]


def set_threads(threads: int | None) -> None:
    """Set torch's number of threads; None keeps torch's choice.

    Raises: ValueError for more threads than CPUs, which may crash OpenMP.
    """
    import torch

    if threads is None:
        return
    cpus = os.cpu_count() or 1
    if not 1 <= threads <= cpus:
        raise ValueError(f"threads must lie in 1 to {cpus}, this machine's CPUs, got {threads}")
    torch.set_num_threads(threads)

"""The number of CPU threads that torch uses."""

from __future__ import annotations

import os


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

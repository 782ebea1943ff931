"""How many threads torch computes with on the CPU."""

from __future__ import annotations

import os


def set_threads(threads: int | None) -> None:
    """``threads``, or what torch has chosen. ValueError for more than there are CPUs: OpenMP may die of them."""
    import torch

    if threads is None:
        return
    cpus = os.cpu_count() or 1
    if not 1 <= threads <= cpus:
        raise ValueError(f"threads must lie in 1 to {cpus}, this machine's CPUs, got {threads}")
    torch.set_num_threads(threads)

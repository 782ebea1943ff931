"""Settings of the whole process: how it keeps memory for training steps, its CPU threads, and its queues to a GPU."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

# Option numbers from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Make this process keep the memory it frees, for the next step to use; False if its C library is not glibc.

    By default every step maps each tensor of more than 32 MB afresh, and the system clears its pages on first touch:
    that is more than a third of a convolutional training step at batch 1024. After this call the process holds its
    peak memory until it ends. Large allocations made before the call are not affected.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library: musl has no such settings
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(name, value) == 1 for name, value in settings)


def set_threads(threads: int | None) -> None:
    """Set torch's number of threads; None keeps torch's choice.

    Raises: ValueError for more threads than CPUs, which may crash OpenMP.
    """
    if threads is None:
        return
    cpus = os.cpu_count() or 1
    if not 1 <= threads <= cpus:
        raise ValueError(f"threads must lie in 1 to {cpus}, this machine's CPUs, got {threads}")
    torch.set_num_threads(threads)


def separate_queues() -> None:
    """Let up to 32 CUDA streams of this process run independently. To be called before CUDA is initialised.

    By default a process has 8 queues to a GPU, and streams that share one may wait for each other (CUDA programming
    guide, "CUDA environment variables", CUDA_DEVICE_MAX_CONNECTIONS). A number that the user has set stays.
    """
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")

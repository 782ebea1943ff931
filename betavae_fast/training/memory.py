"""Where the memory of a training step comes from on a CPU."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Have this process keep the memory it frees, for the next step to use; true if its C library can (glibc's).

    By default every tensor of more than 32 MB is mapped afresh and cleared page by page on first touch, in every step
    again: more than a third of a convolutional training step at batch 1024. The process then holds on to its peak
    usage until it ends. Large allocations that are made before this call are not affected.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library: musl has no such settings
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(name, value) == 1 for name, value in settings)

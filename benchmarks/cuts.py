"""Changes how the launches of our GPU kernels divide their work into CTAs, programs and tiles (their cut).

The order of sums depends on the cut, so that the last bits of sums may differ.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_TRITON = {
    "latent": "betavae_fast.ops.triton.partition",
    "log_densities": "betavae_fast.ops.triton.log_densities",
}


class _Tuning(ctypes.Structure):
    """The struct of the tuning figures in csrc/cuda/tuning.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("enough_ctas", "most_tiles", "log_densities_ctas")]


@contextmanager
def cuda_cut(library: Path, figures: Mapping[str, int]) -> Iterator[None]:
    """Cut the launches of this CUDA library by other ``figures`` within the block; their names are in
    csrc/cuda/tuning.h."""
    find = ctypes.CDLL(str(library)).betavae_fast_cuda_tuning
    find.restype = ctypes.POINTER(_Tuning)
    with _changed(find().contents, figures):
        yield


@contextmanager
def triton_cut(op: str, figures: Mapping[str, int]) -> Iterator[None]:
    """Cut Triton's launches of an op by other ``figures``, the constants of ops/triton, within the block."""
    from betavae_fast.ops.triton.partition import row_partition

    with _changed(importlib.import_module(_TRITON[op]), figures):
        row_partition.cache_clear()
        try:
            yield
        finally:
            row_partition.cache_clear()


@contextmanager
def _changed(holder: object, figures: Mapping[str, int]) -> Iterator[None]:
    before = {name: getattr(holder, name) for name in figures}
    if not all(value >= 1 for value in figures.values()):
        raise ValueError(f"each figure must be at least 1, got {dict(figures)}")
    try:
        for name, value in figures.items():
            setattr(holder, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(holder, name, value)

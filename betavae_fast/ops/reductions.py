"""Numbers and dtypes that all backends agree on: reductions, likelihoods and estimators, and the results' dtypes."""

from __future__ import annotations

import torch
from torch import Tensor

from betavae_fast.ops.gradients import is_batched, transformed

# Numbers that stand for reductions, likelihoods and estimators in the operators' arguments.
REDUCTIONS = {"none": 0, "dim": 1, "sample": 2, "batchmean": 3, "sum": 4}
LIKELIHOODS = {"bernoulli": 0, "gaussian": 1, "laplace": 2}
ESTIMATORS = {"mws": 0, "mss": 1}


def kl_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of every KL and NLL: float32, or float64 for float64 input."""
    return torch.float64 if dtype == torch.float64 else torch.float32


_WITHOUT_FLOAT64 = ("mps",)


def widest_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point dtype of ``device``: float64, or float32 if it lacks float64."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64


def wide(x: Tensor) -> Tensor:
    """``x`` in the widest dtype of its device."""
    return x.to(widest_dtype(x.device))


def stored(x: Tensor, empty: Tensor) -> Tensor:
    """``x`` in the memory of ``empty``, whose dtype and layout it gets.

    Under a transform or is_grads_batched ``x`` may stand for many tensors, which do not fit there, and gets the dtype.
    """
    return x.to(empty.dtype) if transformed() or is_batched(x) else empty.copy_(x)


def empty_kl(mu: Tensor, reduction: int) -> Tensor:
    """An uninitialised KL of ``mu``'s shape after the reduction; unreduced, it has ``mu``'s memory layout."""
    dtype = kl_dtype(mu.dtype)
    if reduction == REDUCTIONS["none"]:
        return torch.empty_like(mu, dtype=dtype)
    if reduction == REDUCTIONS["dim"]:
        return mu.new_empty(mu.shape[1:], dtype=dtype)
    return mu.new_empty(mu.shape[:1] if reduction == REDUCTIONS["sample"] else (), dtype=dtype)


def empty_nll(decoded: Tensor, reduction: int) -> Tensor:
    """An uninitialised NLL of ``decoded``'s shape after the reduction; unreduced, it has ``decoded``'s memory layout."""
    return empty_kl(decoded, reduction)

"""The launches of the log densities op's Triton kernels of pairs that are compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch

from betavae_fast.ops.reductions import ESTIMATORS
from betavae_fast.ops.triton import log_densities

_BATCH, _DIMS = 4096, 10


def _forward(estimator: str) -> Callable[[torch.dtype], None]:
    def call(dtype: torch.dtype) -> None:
        z, mu, logvar = (torch.empty(_BATCH, _DIMS, dtype=dtype) for _ in range(3))
        log_densities.log_densities_forward(z, mu, logvar, 0, 1 << 20, ESTIMATORS[estimator])

    return call


def _backward(estimator: str) -> Callable[[torch.dtype], None]:
    def call(dtype: torch.dtype) -> None:
        z, mu, logvar = (torch.empty(_BATCH, _DIMS, dtype=dtype) for _ in range(3))
        joint, marginals = (torch.empty(shape, dtype=torch.float64) for shape in (z.shape[:1], z.shape))
        log_densities.log_densities_backward(
            joint, marginals, z, mu, logvar, joint, marginals, 0, 1 << 20, ESTIMATORS[estimator]
        )

    return call


# The names are "kernel estimator".
VARIANTS: dict[str, Callable[[torch.dtype], None]] = {
    f"{kernel} {estimator}": call(estimator)
    for kernel, call in {
        "sum_densities": _forward,
        "row_gradients": _backward,
        "posterior_gradients": _backward,
    }.items()
    for estimator in ESTIMATORS
}
FULL_WIDTH: tuple[str, ...] = ()

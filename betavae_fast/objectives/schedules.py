"""How a weight grows: a function of the number of updates done, computed on that number's device."""

from __future__ import annotations

import torch
from torch import Tensor


def ramp(step: Tensor, end: float, steps: int, period: int = 0) -> Tensor:
    """``end``, grown into linearly from 0 over the first ``steps`` updates; float64 scalar.

    Args:
        step: int64 scalar, updates done.
        steps: length of the growth; 0: none.
        period: updates after which all of it starts again; 0: never. Cyclical annealing (Fu et al. 2019,
            arXiv:1903.10145, equation 6) of M = 4 cycles with R = 0.5 in a run of T updates: period T/4, steps T/8.

    >>> [float(ramp(torch.tensor(step), end=4.0, steps=8)) for step in (0, 2, 8, 9)]
    [0.0, 1.0, 4.0, 4.0]
    >>> [float(ramp(torch.tensor(step), end=4.0, steps=2, period=4)) for step in range(6)]
    [0.0, 2.0, 4.0, 4.0, 0.0, 2.0]
    """
    value = torch.full_like(step, end, dtype=torch.float64)
    if period:
        step = step % period
    if steps:
        value *= (step.double() / steps).clamp(max=1)
    return value

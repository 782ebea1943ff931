"""Schedules of weights: functions of the number of updates done, computed on that number's device."""

from __future__ import annotations

import torch
from torch import Tensor


def ramp(step: Tensor, end: float, steps: int, period: int = 0) -> Tensor:
    """A weight that grows linearly from 0 to ``end`` over the first ``steps`` updates; float64 scalar.

    Args:
        step: number of updates done, an int64 scalar.
        steps: length of the growth in updates; 0: the weight is ``end`` from the start.
        period: updates after which the growth starts again; 0: never. Cyclical annealing (Fu et al. 2019,
            arXiv:1903.10145, equation 6) with M = 4 cycles and R = 0.5 in a run of T updates has period T/4, steps T/8.

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


def geometric(step: Tensor, start: float, end: float, hold: int, steps: int) -> Tensor:
    """A weight that is ``start`` for ``hold`` updates, then changes to ``end`` over ``steps``; float64 scalar.

    Each update changes it by the same factor.

    Args:
        step: number of updates done, an int64 scalar.
        start, end: both positive.
        steps: at least 1.

    >>> [round(float(geometric(torch.tensor(step), 16.0, 1.0, hold=2, steps=2)), 6) for step in range(6)]
    [16.0, 16.0, 16.0, 4.0, 1.0, 1.0]
    """
    done = ((step.double() - hold) / steps).clamp(0, 1)
    return start ** (1 - done) * end**done

"""Means and variances whose value depends neither on the order of what is averaged nor on rounding dust."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def mean(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> float:
    """The mean, weighted unless all weights are 0, the same for any order of the values.

    >>> mean(np.array([1.0, 4.0]), np.array([2.0, 1.0]))
    2.0
    """
    if weights is None or not weights.any():
        weights = np.ones_like(values)
    return math.fsum(values * weights) / math.fsum(weights)


def variances(values: NDArray[np.float64], *, ddof: int = 0) -> NDArray[np.float64]:
    """Of each column of (N, D); exactly 0 for a constant one, where the mean's rounding would leave dust.

    >>> variances(np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]]), ddof=1)
    array([0., 1.])
    """
    constant = (values == values[0]).all(axis=0)
    return np.where(constant, 0.0, values.var(axis=0, ddof=ddof))


def standardise(
    values: NDArray[np.float64], reference: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """``values`` less the mean of ``reference``, over its standard deviation; 0 where the reference is
    constant.

    Args:
        values: (N, D).
        reference: (M, D); ``values`` themselves by default.

    >>> standardise(np.array([[1.0, 5.0], [3.0, 5.0]]))
    array([[-1.,  0.],
           [ 1.,  0.]])
    """
    reference = values if reference is None else reference
    scale = np.sqrt(variances(reference))
    alive = scale > 0
    return np.where(alive, values - reference.mean(axis=0), 0.0) / np.where(alive, scale, 1.0)

"""Means that do not depend on the order of the values, variances that are exactly 0 for constants, and gaps."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def mean(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> float:
    """The weighted mean, exactly the same for any order of the values; unweighted if all weights are 0.

    >>> mean(np.array([1.0, 4.0]), np.array([2.0, 1.0]))
    2.0
    """
    if weights is None or not weights.any():
        weights = np.ones_like(values)
    return math.fsum(values * weights) / math.fsum(weights)


def variances(values: NDArray[np.float64], *, ddof: int = 0) -> NDArray[np.float64]:
    """The variance of each column of (N, D).

    It is exactly 0 for a constant column, for which the rounding of the mean would otherwise leave a tiny variance.

    >>> variances(np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]]), ddof=1)
    array([0., 1.])
    """
    constant = (values == values[0]).all(axis=0)
    return np.where(constant, 0.0, values.var(axis=0, ddof=ddof))


def standardise(
    values: NDArray[np.float64], reference: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Subtract the mean of ``reference`` and divide by its standard deviation; constant columns become 0.

    Args:
        values: (N, D).
        reference: (M, D); ``values`` by default.

    >>> standardise(np.array([[1.0, 5.0], [3.0, 5.0]]))
    array([[-1.,  0.],
           [ 1.,  0.]])
    """
    reference = values if reference is None else reference
    scale = np.sqrt(variances(reference))
    alive = scale > 0
    return np.where(alive, values - reference.mean(axis=0), 0.0) / np.where(alive, scale, 1.0)


def top_two_gap(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest minus the second largest score in each column of (D, K) scores ≥ 0; with one row the second is 0.

    >>> top_two_gap(np.array([[0.5, 1.0], [2.0, 1.0], [0.25, 0.0]]))
    array([1.5, 0. ])
    """
    second, first = np.sort(np.pad(scores, ((1, 0), (0, 0))), axis=0)[-2:]
    return first - second

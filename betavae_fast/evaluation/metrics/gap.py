"""The gap between the best latent and the second best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_two_gap(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest minus the second largest score in each column of (D, K) scores ≥ 0; with one row the second is 0.

    >>> top_two_gap(np.array([[0.5, 1.0], [2.0, 1.0], [0.25, 0.0]]))
    array([1.5, 0. ])
    """
    second, first = np.sort(np.pad(scores, ((1, 0), (0, 0))), axis=0)[-2:]
    return first - second

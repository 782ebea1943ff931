"""Entropy and mutual information of discrete variables, in nats, from counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from .table import Codes, Factors, Rows

_CELLS = 2**22  # cells of joint histograms held at a time: 32 MiB


def discretise(values: Codes | Factors, num_bins: int) -> Rows:
    """Put each value into one of ``num_bins`` equal-width bins between the least and the largest value of its column.

    A bin includes its lower edge but not its upper one; the last bin includes both. A constant column is in one bin.

    Args:
        values: (N, D).
    Returns: (N, D), in [0, num_bins).

    >>> discretise(np.array([[0.0], [0.9], [1.0], [2.0]]), 2).ravel()
    array([0, 0, 1, 1])
    """
    return np.stack([_bins(column, num_bins) for column in values.T], axis=1)


def entropies(classes: Factors) -> NDArray[np.float64]:
    """The entropy of each column in nats: −Σ p log p of the classes' frequencies p.

    Args:
        classes: (N, D) integers.
    Returns: (D,).

    >>> entropies(np.array([[0, 3], [1, 3]])).round(4)
    array([0.6931, 0.    ])
    """
    return _joint_entropies(_numbered(classes), np.zeros(len(classes), dtype=np.intp))


def mutual_information_matrix(a: Factors, b: Factors) -> NDArray[np.float64]:
    """I(a_i; b_j) = H(a_i) + H(b_j) − H(a_i, b_j) in nats, for every column of ``a`` and every column of ``b``.

    If ``a is b``, each pair of columns is computed once.

    The estimate from N samples is biased upwards, for independent variables by about (A − 1)(B − 1) / 2N with A and B
    classes (Miller 1955). Renaming classes changes no bit of it, and I(a; a) is exactly the entropy of a.

    Args:
        a, b: (N, A) and (N, B) integer classes.
    Returns: (A, B), between 0 and the smaller entropy.

    >>> a = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> mutual_information_matrix(a, a).round(4)
    array([[0.6931, 0.    ],
           [0.    , 0.6931]])
    """
    ranks_a = _numbered(a)
    if a is b:
        ranks_b = ranks_a
        joint = np.zeros((ranks_a.shape[1],) * 2)
        for j, column in enumerate(ranks_a.T):
            joint[j, : j + 1] = joint[: j + 1, j] = _joint_entropies(ranks_a[:, : j + 1], column)
    else:
        ranks_b = _numbered(b)
        joint = np.stack([_joint_entropies(ranks_a, column) for column in ranks_b.T], axis=1)
    alone_a, alone_b = entropies(ranks_a)[:, None], entropies(ranks_b)
    return np.clip(alone_a + alone_b - joint, 0.0, np.minimum(alone_a, alone_b))


def _bins(values: Codes | Factors, num_bins: int) -> Rows:
    inner_edges = np.linspace(values.min(), values.max(), num_bins + 1)[1:-1]
    return np.searchsorted(inner_edges, values, side="right")


def _joint_entropies(classes: Rows, other: Rows) -> NDArray[np.float64]:
    """The joint entropy H(classes_i, other) for every column of ``classes`` (N, D) and ``other`` (N,)."""
    width = int(other.max()) + 1
    pairs = classes * width + other[:, None]
    cells = (int(classes.max()) + 1) * width
    step = max(1, _CELLS // cells)
    return np.concatenate(
        [_entropies_of(pairs[:, start : start + step], cells) for start in range(0, pairs.shape[1], step)]
    )


def _entropies_of(classes: Rows, size: int) -> NDArray[np.float64]:
    """The entropy of each column of classes in [0, size)."""
    count, dims = classes.shape
    cells = classes + size * np.arange(dims)
    histogram = np.bincount(cells.ravel(), minlength=size * dims).reshape(dims, size)
    terms = np.sort(entr(histogram / count), axis=1)
    # Adding one by one from the smallest makes the rounding independent of the classes' numbers and of empty classes.
    return terms.cumsum(axis=1)[:, -1] + 0.0


def _numbered(classes: Factors) -> Rows:
    """Replace the classes of each column by their ranks 0, 1, … without gaps."""
    return np.stack([np.unique(column, return_inverse=True)[1] for column in classes.T], axis=1)

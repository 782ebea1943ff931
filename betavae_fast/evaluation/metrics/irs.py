"""The interventional robustness score: does a latent stay constant if its factor does, while other factors change?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .moments import mean, variances
from .mutual_information import discretise
from .table import Codes, Factors, Rows, check_counts, checked, draw


@dataclass(frozen=True, eq=False)
class IRSScore:
    """The mean of each alive latent's largest entry in ``matrix``, weighted by ``max_deviations``."""

    score: float
    matrix: NDArray[np.float64]  # (alive, K), at most 1
    max_deviations: NDArray[np.float64]  # (alive,): the largest distance from the latent's mean
    alive: Rows  # the dims that are not constant


def irs_score(
    codes: Codes,
    factors: Factors,
    rng: np.random.Generator,
    *,
    num_train: int = 10_000,
    num_bins: int = 20,
    diff_quantile: float = 0.99,
) -> IRSScore:
    """The interventional robustness score of Suter et al. 2019 (arXiv:1811.00007), for factors that are independent.

    It is estimated as in disentanglement_lib. Entry (d, k) of the matrix is 1 − a / b: a is the ``diff_quantile`` of
    |z_d − its mean given factor k|, averaged over the values of factor k; b is the largest |z_d − its mean|. Factor
    classes are put into ``num_bins`` equal-width bins first, which merges none of up to 20 consecutive classes. The paper
    takes the maximum, which is quantile 1.

    Perfect: 1. Chance: not 0 (0.01 for uniform noise, about a third for Gaussian noise, whose largest deviation exceeds
    its quantile). The score is 0 if every latent is constant. It is exactly invariant to the order and sign of latents,
    and to the scaling of all of them by one power of two. Scaling a single latent changes its weight.

    Args:
        codes: (N, D) floats.
        factors: (N, K) integer classes; constant columns are left out.
    Raises: TypeError or ValueError for arrays that do not fit, ValueError for counts below 1, for a quantile
        outside [0, 1] or if a factor has a single value in the rows drawn.

    >>> rng = np.random.default_rng(0)
    >>> factors = np.argwhere(np.ones((4, 5)))  # a full grid
    >>> codes = np.column_stack([factors, np.zeros(20)])
    >>> result = irs_score(codes, factors, rng)
    >>> result.score, result.alive
    (1.0, array([0, 1]))
    """
    factors = checked(codes, factors)
    check_counts(num_train=num_train, num_bins=num_bins)
    if not 0 <= diff_quantile <= 1:
        raise ValueError(f"diff_quantile must be in [0, 1], got {diff_quantile}")
    sample, classes = draw(codes, factors, num_train, rng)
    alive = np.flatnonzero(variances(sample))
    if len(alive) == 0:
        return IRSScore(0.0, np.zeros((0, factors.shape[1])), np.zeros(0), alive)
    sample = np.ascontiguousarray(sample[:, alive])
    max_deviations = np.abs(sample - sample.mean(axis=0)).max(axis=0)
    bins = discretise(classes, num_bins).T
    deviations = np.stack([_deviations(sample, column, diff_quantile) for column in bins], axis=1)
    matrix = 1.0 - deviations / max_deviations[:, None]
    return IRSScore(mean(matrix.max(axis=1), max_deviations), matrix, max_deviations, alive)


def _deviations(codes: NDArray[np.float64], classes: Rows, quantile: float) -> NDArray[np.float64]:
    """The quantile of the distances from each class's mean, averaged over the classes, (D,)."""
    members = [codes[classes == value] for value in np.unique(classes)]
    quantiles = [np.quantile(np.abs(codes - codes.mean(axis=0)), quantile, axis=0) for codes in members]
    return np.mean(quantiles, axis=0)

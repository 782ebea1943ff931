"""The FactorVAE score: does the latent that varies least tell which factor is held fixed?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .grouping import Groups, group
from .moments import variances
from .table import Codes, Factors, Rows, check_counts, checked, reduce_batches, take


@dataclass(frozen=True, eq=False)
class FactorVAEScore:
    """The accuracy of the majority vote on fresh votes (``score``) and on the votes it was made from."""

    score: float
    train_accuracy: float
    kept: Rows  # the dims that were not pruned
    # (kept, K): number of training votes in which each dim varied least while each factor was fixed
    votes: NDArray[np.intp]


def factor_vae_score(
    codes: Codes,
    factors: Factors,
    rng: np.random.Generator,
    *,
    num_train: int = 10_000,
    num_test: int = 5_000,
    batch_size: int = 64,
    num_variance_estimate: int = 10_000,
    threshold: float = 0.05,
) -> FactorVAEScore:
    """The FactorVAE score of Kim and Mnih 2018 (arXiv:1802.05983), section 4 and figure 2.

    Each vote draws a factor and fixes it over ``batch_size`` images. The vote goes to the kept dim with the least ratio
    of local to global variance. A dim is kept if its standard deviation is at least ``threshold`` and not 0; the score is
    0 if no dim is kept.

    Perfect: 1. Chance: 1/K for K varying factors. The score is exactly invariant to the order and sign of latents, and to
    their scaling by powers of two as long as the same dims are kept.

    Args:
        codes: (N, D) floats.
        factors: (N, K) integer classes; constant columns are left out.
    Raises: TypeError or ValueError for arrays that do not fit, ValueError for ``num_train`` or ``num_test``
        below 1, ``batch_size`` or ``num_variance_estimate`` below 2.

    >>> rng = np.random.default_rng(0)
    >>> factors = np.argwhere(np.ones((4, 5)))  # a full grid
    >>> codes = np.column_stack([factors, np.zeros(20)])
    >>> result = factor_vae_score(codes, factors, rng, num_train=500, num_test=200)
    >>> result.score, result.kept
    (1.0, array([0, 1]))
    """
    factors = checked(codes, factors)
    check_counts(num_train=num_train, num_test=num_test)
    check_counts(2, batch_size=batch_size, num_variance_estimate=num_variance_estimate)
    sample = rng.integers(len(codes), size=num_variance_estimate)
    global_variances = variances(take(codes, sample), ddof=1)
    kept = np.flatnonzero((np.sqrt(global_variances) >= threshold) & (global_variances > 0))
    if len(kept) == 0:
        return FactorVAEScore(0.0, 0.0, kept, np.zeros((0, factors.shape[1]), dtype=np.intp))
    codes, global_variances = codes.take(kept, axis=1), global_variances[kept]
    groups = group(factors)
    votes = _votes(codes, groups, global_variances, num_train, batch_size, rng)
    test = _votes(codes, groups, global_variances, num_test, batch_size, rng)
    winner = np.arange(len(kept)), votes.argmax(axis=1)
    return FactorVAEScore(
        float(test[winner].sum() / num_test), float(votes[winner].sum() / num_train), kept, votes
    )


def _votes(
    codes: Codes,
    groups: Groups,
    global_variances: NDArray[np.float64],
    count: int,
    batch_size: int,
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """The number of ``count`` votes that went to each dim while each factor was fixed, (D, K)."""
    columns, rows = groups.labels.shape
    factor = rng.integers(columns, size=(count, 1))
    anchors = np.broadcast_to(rng.integers(rows, size=(count, 1)), (count, batch_size))
    batches = groups.draw(factor, anchors, rng)
    local_variances = reduce_batches(lambda batch: batch.var(axis=1, ddof=1), codes, batches)
    dim = (local_variances / global_variances).argmin(axis=1)
    return np.bincount(dim * columns + factor[:, 0], minlength=codes.shape[1] * columns).reshape(-1, columns)

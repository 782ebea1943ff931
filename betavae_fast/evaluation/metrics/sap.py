"""SAP: measures how much better the best single latent predicts a factor than the second best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .moments import mean, top_two_gap
from .table import Codes, Factors, check_counts, checked, draw


@dataclass(frozen=True, eq=False)
class SAPScore:
    """The mean over factors of the gap between the two largest ``accuracies``."""

    score: float
    accuracies: NDArray[np.float64]  # (D, K): predicting each factor from each latent alone, fresh rows


def sap_score(
    codes: Codes,
    factors: Factors,
    rng: np.random.Generator,
    *,
    num_train: int = 10_000,
    num_test: int = 5_000,
    c: float = 0.01,
) -> SAPScore:
    """The SAP score of Kumar et al. 2018 (openreview H1kG7GZAW), section 3, for discrete factors.

    Each latent alone predicts each factor through a linear support vector machine with balanced class weights
    and ``C = c``. A dead latent always predicts the same class, and the accuracy of that is its score. With a single
    latent the second best is 0.

    A linear machine on one latent orders classes along a line, which works for few classes only. Even codes that equal
    the factors score well below 1, and factors of 30 or more classes are hardly predicted. Chance: near 0. The score is
    exactly invariant to the order of latents, but not to their scale, since the machine is regularised.

    Args:
        codes: (N, D) floats.
        factors: (N, K) integer classes; constant columns are left out.
    Raises: TypeError or ValueError for arrays that do not fit, ValueError for counts below 1 or if a factor
        has a single value in the rows drawn.

    >>> rng = np.random.default_rng(0)
    >>> factors = np.argwhere(np.ones((2, 2)))  # a full grid
    >>> result = sap_score(factors.astype(float), factors, rng, num_train=500, num_test=200)
    >>> result.accuracies.diagonal()
    array([1., 1.])
    """
    from sklearn.svm import LinearSVC

    factors = checked(codes, factors)
    check_counts(num_train=num_train, num_test=num_test)
    train, train_classes = draw(codes, factors, num_train, rng)
    test, test_classes = draw(codes, factors, num_test, rng)
    accuracies = np.empty((codes.shape[1], factors.shape[1]))
    for dim, factor in np.ndindex(accuracies.shape):
        # The primal problem has the same optimum as the dual one and is solved without a random order.
        model = LinearSVC(C=c, class_weight="balanced", dual=False)
        model.fit(train[:, [dim]], train_classes[:, factor])
        accuracies[dim, factor] = model.score(test[:, [dim]], test_classes[:, factor])
    return SAPScore(mean(top_two_gap(accuracies)), accuracies)

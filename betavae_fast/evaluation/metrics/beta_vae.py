"""The BetaVAE score: can a linear classifier tell which factor two images share?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .grouping import Groups, group
from .table import Codes, Factors, Rows, check_counts, checked, reduce_batches


def logistic_regression() -> Any:
    """One L2-regularised regression (C = 1) for each class against the rest.

    scikit-learn's ``LogisticRegression()`` did this until version 0.21, when the published numbers were made. Later
    versions fit one multinomial model, which gives entangled codes BetaVAE scores up to 2 points higher.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(LogisticRegression(solver="liblinear"))


@dataclass(frozen=True)
class BetaVAEScore:
    """The accuracy of the classifier on fresh points (``score``) and on the points it was fitted to."""

    score: float
    train_accuracy: float


def beta_vae_score(
    codes: Codes,
    factors: Factors,
    rng: np.random.Generator,
    *,
    num_train: int = 10_000,
    num_test: int = 5_000,
    batch_size: int = 64,
    classifier: Callable[[], Any] = logistic_regression,
) -> BetaVAEScore:
    """The BetaVAE score of Higgins et al. 2017 (openreview Sy2fzU9gl), section 3 and algorithm 1.

    A point is the mean of |z₁ − z₂| over ``batch_size`` pairs of images. The images of a pair share the value of one
    factor, which is drawn for each point. The score is the rate at which a logistic regression names the factor.

    Perfect: 1. Chance: 1/K for K varying factors. The score is exactly invariant to the sign of latents, and to their
    order up to the solver's rounding. It is not invariant to their scale, since the regression is regularised.

    Args:
        codes: (N, D) floats.
        factors: (N, K) integer classes; constant columns are left out.
        classifier: makes an unfitted classifier with scikit-learn's ``fit`` and ``score``.
    Raises: TypeError or ValueError for arrays that do not fit, ValueError for counts below 1.

    >>> rng = np.random.default_rng(0)
    >>> factors = np.argwhere(np.ones((4, 5)))  # a full grid
    >>> beta_vae_score(factors.astype(float), factors, rng, num_train=500, num_test=200)
    BetaVAEScore(score=1.0, train_accuracy=1.0)
    """
    factors = checked(codes, factors)
    check_counts(num_train=num_train, num_test=num_test, batch_size=batch_size)
    # A single factor cannot be confused with another, and no classifier can be fitted to one class.
    if factors.shape[1] == 1:
        return BetaVAEScore(1.0, 1.0)
    groups = group(factors)
    train = _points(codes, groups, num_train, batch_size, rng)
    test = _points(codes, groups, num_test, batch_size, rng)
    model = classifier().fit(*train)
    return BetaVAEScore(float(model.score(*test)), float(model.score(*train)))


def _points(
    codes: Codes, groups: Groups, count: int, batch_size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], Rows]:
    """The mean differences (count, D), and for each the factor (count,) that its pairs share."""
    columns, rows = groups.labels.shape
    factor = rng.integers(columns, size=count)
    first = rng.integers(rows, size=(count, batch_size))
    second = groups.draw(factor[:, None], first, rng)
    return reduce_batches(lambda one, two: np.abs(one - two).mean(axis=1), codes, first, second), factor

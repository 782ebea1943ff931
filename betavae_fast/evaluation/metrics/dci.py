"""DCI: measures how much each latent matters for each factor, and how well all of them predict it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.special import entr

from betavae_fast.evaluation import DCI_ROWS

from .moments import mean
from .table import Codes, Factors, check_counts, checked, draw

_FLOOR = 1e-11  # added to importances, because a dead latent's distribution over factors would be 0/0


def gradient_boosting(seed: int) -> Any:
    """Gradient boosting with 100 rounds of depth-3 trees, one tree per class and round."""
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(random_state=seed)


@dataclass(frozen=True, eq=False)
class DCIScores:
    """Disentanglement, completeness and informativeness (the accuracy on fresh rows, and that in training)."""

    disentanglement: float
    completeness: float
    informativeness: float
    informativeness_train: float
    importance: NDArray[np.float64]  # (D, K); a column sums to 1 unless no tree split anything
    accuracies: NDArray[np.float64]  # (K,): informativeness of each factor, on fresh rows
    rows: int  # the number of rows that the classifiers learned from


def dci_scores(
    codes: Codes,
    factors: Factors,
    rng: np.random.Generator,
    *,
    num_train: int = DCI_ROWS,
    num_test: int = DCI_ROWS // 2,
    classifier: Callable[[int], Any] = gradient_boosting,
    jobs: int = 1,
) -> DCIScores:
    """DCI of Eastwood and Williams 2018 (openreview By-7dz-AZ), section 2, with gradient-boosted trees.

    One classifier per factor predicts it from all latents; its feature importances are one column of the
    importance matrix. Disentanglement is 1 − the entropy of a latent's importances over factors, weighted by the
    latent's share. Completeness is the same over latents for each factor.

    Perfect: 1 each. Chance: near 0 for disentanglement and completeness if there are enough rows, and the accuracy of
    guessing for informativeness. The scores are exactly invariant to the scaling of latents by powers of two, as long as
    no two values come within 1e-7 of each other, which trees take for equal. They are invariant to the order and sign of
    latents up to ties between splits.

    The trees take most of the time: 100 per class, about 3 s per class for 10,000 rows of 10 latents, which is 6
    minutes for dSprites' 113 classes on one core. ``jobs`` spreads them over several cores.

    Args:
        codes: (N, D) floats.
        factors: (N, K) integer classes; constant columns are left out.
        classifier: makes, from a seed, an unfitted classifier with scikit-learn's ``fit``, ``score`` and
            ``feature_importances_`` (forests and boosting have them, histogram boosting does not).
        jobs: number of processes that share the factors, -1 for one per core; the scores do not depend on it.
    Raises: TypeError or ValueError for arrays that do not fit, ValueError for counts below 1 or if a factor
        has a single value in the rows drawn.

    >>> rng = np.random.default_rng(0)
    >>> factors = np.argwhere(np.ones((2, 2)))  # a full grid
    >>> result = dci_scores(factors.astype(float), factors, rng, num_train=500, num_test=200)
    >>> round(result.disentanglement, 2), round(result.completeness, 2), result.informativeness
    (1.0, 1.0, 1.0)
    """
    factors = checked(codes, factors)
    check_counts(num_train=num_train, num_test=num_test)
    train, train_classes = draw(codes, factors, num_train, rng)
    test, test_classes = draw(codes, factors, num_test, rng)
    seeds = [int(rng.integers(2**31)) for _ in range(factors.shape[1])]
    fitted = Parallel(n_jobs=jobs)(
        delayed(_fit)(classifier(seed), train, train_classes[:, factor], test, test_classes[:, factor])
        for factor, seed in enumerate(seeds)
    )
    importance = np.column_stack([importances for importances, _, _ in fitted])
    accuracies = np.array([both for _, *both in fitted]).T
    return DCIScores(
        disentanglement(importance),
        completeness(importance),
        mean(accuracies[0]),
        mean(accuracies[1]),
        importance,
        accuracies[0],
        num_train,
    )


def _fit(
    model: Any,
    train: NDArray[np.float64],
    train_classes: Factors,
    test: NDArray[np.float64],
    test_classes: Factors,
) -> tuple[NDArray[np.float64], float, float]:
    """Fit one factor's classifier; return its importances (D,) and its accuracies on fresh rows and in training."""
    model.fit(train, train_classes)
    return (
        np.abs(model.feature_importances_),
        model.score(test, test_classes),
        model.score(train, train_classes),
    )


def disentanglement(importance: NDArray[np.float64]) -> float:
    """The mean over latents of the concentration of their importances (D, K) on one factor, weighted by their sum.

    >>> round(disentanglement(np.array([[3.0, 0.0], [0.5, 0.5], [0.0, 0.0]])), 4)
    0.75
    """
    return mean(_concentration(importance), importance.sum(axis=1))


def completeness(importance: NDArray[np.float64]) -> float:
    """The mean over factors of the concentration of their importances (D, K) on one latent, weighted by their sum.

    >>> round(completeness(np.array([[1.0, 0.5], [0.0, 0.5]])), 4)
    0.5
    """
    return disentanglement(importance.T)


def _concentration(importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The concentration of each row: 1 − its entropy over the largest possible entropy.

    It is 1 for rows with a single entry that is not 0, and 0 for rows of zeros.
    """
    shares = importance + _FLOOR
    shares = shares / shares.sum(axis=1, keepdims=True)
    concentration = 1.0 - entr(shares).sum(axis=1) / log(max(shares.shape[1], 2))
    return np.where(importance.any(axis=1), concentration, 0.0)

"""Modularity and explicitness: is each latent about one factor, and can factors be read off linearly?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .beta_vae import logistic_regression
from .moments import mean, standardise
from .mutual_information import discretise, mutual_information_matrix
from .table import Codes, Factors, check_counts, checked, draw


@dataclass(frozen=True, eq=False)
class ModularityScore:
    """The mean over latents of ``per_code``."""

    score: float
    per_code: NDArray[np.float64]  # (D,), in [0, 1]
    mutual_information: NDArray[np.float64]  # (D, K), nats


@dataclass(frozen=True, eq=False)
class ExplicitnessScore:
    """The mean of the factors' areas under the ROC curve, on fresh rows (``score``) and in training."""

    score: float
    train_score: float
    per_factor: NDArray[np.float64]  # (K,): area of each factor, on fresh rows


def modularity_score(
    codes: Codes,
    factors: Factors,
    rng: np.random.Generator,
    *,
    num_train: int = 10_000,
    num_bins: int = 20,
) -> ModularityScore:
    """The modularity of Ridgeway and Mozer 2018 (arXiv:1802.05312), section 3.

    With m the mutual information of a latent and each of the K factors, the modularity of the latent is
    1 − (Σ m² − max m²) / ((K − 1) max m²). A latent that informs about nothing scores 0, as in disentanglement_lib.

    Perfect: 1. Chance: not 0. For a latent that is noise, the score compares the bias of the mutual information between
    factors. It is then high if one factor has many more classes than the others, so read it together with the matrix.
    With one factor every latent that informs scores 1. The score is exactly invariant to the order of latents, to their
    scaling by powers of two and, unless a value lies on the edge of a bin, to their sign.

    Args:
        codes: (N, D) floats.
        factors: (N, K) integer classes; constant columns are left out.
    Raises: TypeError or ValueError for arrays that do not fit, ValueError for counts below 1 or if a factor
        has a single value in the rows drawn.

    >>> rng = np.random.default_rng(0)
    >>> factors = np.argwhere(np.ones((4, 5)))  # a full grid
    >>> codes = np.column_stack([factors, np.zeros(20)])
    >>> modularity_score(codes, factors, rng).per_code.round(2)
    array([1., 1., 0.])
    """
    factors = checked(codes, factors)
    check_counts(num_train=num_train, num_bins=num_bins)
    sample, classes = draw(codes, factors, num_train, rng)
    information = mutual_information_matrix(discretise(sample, num_bins), classes)
    per_code = modularity_per_code(information)
    return ModularityScore(mean(per_code), per_code, information)


def modularity_per_code(information: NDArray[np.float64]) -> NDArray[np.float64]:
    """The modularity of each latent, from its row of the (D, K) mutual information.

    >>> modularity_per_code(np.array([[2.0, 0.0, 0.0], [2.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    array([1.  , 0.75, 0.  ])
    """
    largest = information.max(axis=1, keepdims=True)
    informs = largest[:, 0] > 0
    relative = np.square(information / np.where(largest > 0, largest, 1.0))  # the largest entry becomes 1
    others = max(information.shape[1] - 1, 1)
    return np.where(informs, 1.0 - (relative.sum(axis=1) - 1.0) / others, 0.0)


def explicitness_score(
    codes: Codes,
    factors: Factors,
    rng: np.random.Generator,
    *,
    num_train: int = 10_000,
    num_test: int = 5_000,
    classifier: Callable[[], Any] = logistic_regression,
) -> ExplicitnessScore:
    """The explicitness of Ridgeway and Mozer 2018 (arXiv:1802.05312), section 3, without its rescaling.

    A logistic regression on standardised codes ranks the classes of a factor. The score is the mean over classes of the
    area under the one-against-rest ROC curve.

    Perfect: 1. Chance: 0.5. The score is exactly invariant to the scaling of latents by powers of two, and to their order
    and sign up to the solver's rounding.

    Args:
        codes: (N, D) floats.
        factors: (N, K) integer classes; constant columns are left out.
        classifier: makes an unfitted classifier with scikit-learn's ``fit``, ``predict_proba``, ``classes_``.
    Raises: TypeError or ValueError for arrays that do not fit, ValueError for counts below 1 or if a factor
        has a single value in the rows drawn.

    >>> rng = np.random.default_rng(0)
    >>> factors = np.argwhere(np.ones((2, 2)))  # a full grid
    >>> explicitness_score(factors.astype(float), factors, rng, num_train=500, num_test=200).score
    1.0
    """
    factors = checked(codes, factors)
    check_counts(num_train=num_train, num_test=num_test)
    reference, classes = draw(codes, factors, num_train, rng)
    fresh, fresh_classes = draw(codes, factors, num_test, rng)
    train, test = standardise(reference), standardise(fresh, reference)
    areas = np.empty((2, factors.shape[1]))
    for factor in range(factors.shape[1]):
        model = classifier().fit(train, classes[:, factor])
        areas[0, factor] = _area(model, test, fresh_classes[:, factor])
        areas[1, factor] = _area(model, train, classes[:, factor])
    return ExplicitnessScore(mean(areas[0]), mean(areas[1]), areas[0])


def _area(model: Any, codes: NDArray[np.float64], classes: Factors) -> float:
    """The mean over the classes of the area under the ROC curve; a class absent from training has area 0.5."""
    present, of_row = np.unique(classes, return_inverse=True)
    known = np.isin(present, model.classes_)
    probabilities = np.zeros((len(codes), len(present)))
    probabilities[:, known] = model.predict_proba(codes)[:, np.searchsorted(model.classes_, present[known])]
    return mean(areas_under_roc(probabilities, of_row))


def areas_under_roc(scores: NDArray[np.float64], classes: Factors) -> NDArray[np.float64]:
    """The area under the ROC curve of each class c against the rest.

    It is the rate at which a member's score c exceeds a non-member's, with ties counted half (Mann and Whitney 1947).

    Args:
        scores: (N, C).
        classes: (N,), each in [0, C), with at least two different ones.
    Returns: (C,).

    >>> areas_under_roc(np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.4, 0.6]]), np.array([0, 0, 1, 1]))
    array([0.625, 0.625])
    """
    from scipy.stats import rankdata

    member = classes[:, None] == np.arange(scores.shape[1])
    count = member.sum(axis=0)
    rank_sum = np.where(member, rankdata(scores, axis=0), 0.0).sum(axis=0)
    return (rank_sum - count * (count + 1) / 2) / (count * (len(scores) - count))

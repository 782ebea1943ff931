"""Scores of the dependence between latents, which need no factors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .moments import standardise, variances
from .mutual_information import discretise, mutual_information_matrix
from .table import Codes, check_codes, check_counts, take


@dataclass(frozen=True, eq=False)
class UnsupervisedScores:
    """Measures of the dependence between latents; all are 0 for independent latents."""

    gaussian_total_correlation: float  # nats; inf if a latent is a linear function of others
    gaussian_wasserstein_correlation: float  # squared distance, in the latents' units
    gaussian_wasserstein_correlation_normalised: float  # over the sum of variances
    mutual_information_score: float  # nats, mean over pairs
    mutual_information: NDArray[np.float64]  # (D, D), nats; the diagonal holds entropies


def unsupervised_scores(
    codes: Codes, rng: np.random.Generator, *, num_train: int = 10_000, num_bins: int = 20
) -> UnsupervisedScores:
    """The unsupervised scores of Locatello et al. 2019 (arXiv:1811.12359), appendix.

    Two scores measure the dependence in a Gaussian with the latents' covariance Σ, of which D is the diagonal: the total
    correlation ½ (log det D − log det Σ), in nats, and the squared Wasserstein-2 distance between N(0, Σ) and N(0, D),
    2 tr Σ − 2 tr (D½ Σ D½)½. Constant latents add nothing to either. The third is the mutual information of pairs of
    latents in equal-width bins. The total correlation is exactly invariant to scaling by powers of two; all scores are
    invariant to the order and sign of latents up to rounding.

    Args:
        codes: (N, D) floats.
    Raises: TypeError or ValueError for codes that do not fit, ValueError for ``num_train`` below 2 or
        ``num_bins`` below 1.

    >>> rng = np.random.default_rng(0)
    >>> one, two = rng.standard_normal((2, 100_000))
    >>> result = unsupervised_scores(np.column_stack([one, 0.6 * one + 0.8 * two]), rng, num_train=100_000)
    >>> round(result.gaussian_total_correlation, 2)  # −½ log(1 − 0.6²) = 0.223
    0.22
    """
    check_codes(codes)
    check_counts(2, num_train=num_train)
    check_counts(num_bins=num_bins)
    sample = take(codes, rng.integers(len(codes), size=num_train))
    alive = np.ascontiguousarray(sample[:, variances(sample) > 0])
    wasserstein, total_variance = _wasserstein_correlation(alive)
    bins = discretise(sample, num_bins)
    information = mutual_information_matrix(bins, bins)
    pairs = information[~np.eye(len(information), dtype=bool)]
    return UnsupervisedScores(
        _total_correlation(alive),
        wasserstein,
        wasserstein / total_variance if total_variance > 0 else 0.0,
        float(pairs.mean()) if len(pairs) else 0.0,
        information,
    )


def _total_correlation(codes: NDArray[np.float64]) -> float:
    """The total correlation, −½ log det of the correlation matrix, from its eigenvalues."""
    count, dims = codes.shape
    standard = standardise(codes)
    eigenvalues = np.linalg.eigvalsh(standard.T @ standard / count)
    if (eigenvalues <= dims * np.finfo(np.float64).eps).any():
        return float("inf")
    return max(0.0, float(-0.5 * np.log(eigenvalues).sum()))


def _wasserstein_correlation(codes: NDArray[np.float64]) -> tuple[float, float]:
    """The squared distance and tr Σ. The root is taken of the eigenvalues of D½ Σ D½, which, unlike D Σ, is symmetric."""
    centred = codes - codes.mean(axis=0)
    covariance = centred.T @ centred / (len(codes) - 1)
    variance = covariance.diagonal()
    deviation = np.sqrt(variance)
    eigenvalues = np.linalg.eigvalsh(deviation[:, None] * covariance * deviation)
    trace = float(variance.sum())
    return max(0.0, 2 * trace - 2 * float(np.sqrt(eigenvalues.clip(min=0)).sum())), trace

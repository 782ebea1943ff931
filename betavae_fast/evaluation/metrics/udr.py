"""UDR: do models trained alike find the same latents? Disentangled ones do. It needs no factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .moments import mean, standardise
from .table import Codes, check_codes, check_counts, take

Correlation = Literal["lasso", "spearman"]

_ALPHA = 0.1  # the Lasso's penalty, as published


@dataclass(frozen=True, eq=False)
class UDRScores:
    """The UDR of each model: the median of its agreement with each of the others."""

    scores: NDArray[np.float64]  # (M,)
    pairwise: NDArray[np.float64]  # (M, M): how well model i's latents explain model j's; 0 on the diagonal


def udr_scores(
    codes: Sequence[Codes],
    kl: Sequence[NDArray[np.floating]],
    rng: np.random.Generator,
    *,
    correlation: Correlation = "lasso",
    num_points: int = 1_000,
    kl_threshold: float = 0.01,
) -> UDRScores:
    """The unsupervised disentanglement ranking of Duan et al. 2020 (arXiv:1905.12614), section 4.

    It is computed as in disentanglement_lib. For two models, a matrix R says how well each informative latent of one (KL
    above ``kl_threshold``) explains each informative latent of the other. Its entries are absolute coefficients of a
    Lasso between standardised codes, or absolute rank correlations. The score of the pair is the mean over columns of
    max² / sum, averaged with the same mean over rows. A latent that nothing explains counts as 0, and so does a model
    without informative latents.

    Perfect: 1 by rank correlations, 0.9 by the Lasso, whose penalty of 0.1 shrinks even a perfect agreement. Chance: near
    0 by the Lasso, and of the order of 1/√P by rank correlations of P = ``num_points`` rows. The score is exactly
    invariant to the scaling of latents by powers of two, and to their sign and order up to rounding.

    Args:
        codes: the codes of M ≥ 2 models, (N, D) floats each, for the same N images; D may differ.
        kl: the mean KL per latent of the same models, (D,) each, in nats.
    Raises: TypeError or ValueError for arrays that do not fit, ValueError for fewer than two models, for an
        unknown ``correlation`` or for ``num_points`` below 2.

    >>> rng = np.random.default_rng(0)
    >>> codes = rng.standard_normal((1000, 3))
    >>> kl = np.array([2.0, 1.0, 0.0])
    >>> udr_scores([codes, -codes[:, ::-1]], [kl, kl[::-1]], rng).scores.round(2)
    array([0.9, 0.9])
    """
    _check(codes, kl)
    check_counts(2, num_points=num_points)
    if correlation not in get_args(Correlation):
        raise ValueError(f"correlation must be one of {get_args(Correlation)}, got {correlation!r}")
    rows = rng.integers(len(codes[0]), size=num_points)
    informative = [
        np.ascontiguousarray(take(of_model, rows)[:, nats > kl_threshold])
        for of_model, nats in zip(codes, kl, strict=True)
    ]
    explain: Callable[..., NDArray[np.float64]] = _lasso if correlation == "lasso" else _spearman
    models = len(codes)
    pairwise = np.zeros((models, models))
    for i, j in np.ndindex(models, models):
        if i != j and informative[i].size and informative[j].size:
            pairwise[i, j] = relative_strength(explain(informative[i], informative[j]))
    others = [np.delete(pairwise[:, j], j) for j in range(models)]
    return UDRScores(np.median(others, axis=1), pairwise)


def relative_strength(matrix: NDArray[np.float64]) -> float:
    """The mean over columns of max² / sum of non-negative entries, averaged with the same mean over rows.

    >>> relative_strength(np.array([[1.0, 1.0], [0.0, 0.0]]))
    0.625
    """
    return 0.5 * (_column_strength(matrix) + _column_strength(matrix.T))


def _column_strength(matrix: NDArray[np.float64]) -> float:
    total = matrix.sum(axis=0)
    return mean(np.square(matrix.max(axis=0)) / np.where(total > 0, total, 1.0))


def _lasso(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.linear_model import Lasso

    model = Lasso(alpha=_ALPHA).fit(standardise(one), standardise(two))
    return np.abs(model.coef_).reshape(two.shape[1], one.shape[1]).T


def _spearman(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks = [standardise(rankdata(codes, axis=0)) for codes in (one, two)]
    return np.abs(ranks[0].T @ ranks[1] / len(one)).clip(max=1.0)


def _check(codes: Sequence[Codes], kl: Sequence[NDArray[np.floating]]) -> None:
    if len(codes) < 2 or len(codes) != len(kl):
        raise ValueError(
            f"codes and kl must be of the same models, at least two, got {len(codes)} and {len(kl)}"
        )
    for model, (of_model, nats) in enumerate(zip(codes, kl, strict=True)):
        check_codes(of_model)
        if len(of_model) != len(codes[0]):
            raise ValueError(
                f"codes must have the same number of rows, got {len(codes[0])} for model 0 and {len(of_model)} for "
                f"model {model}"
            )
        if np.shape(nats) != of_model.shape[1:] or not np.isfinite(nats).all():
            raise ValueError(
                f"kl of model {model} must be {of_model.shape[1]} finite numbers, one per latent, got {nats}"
            )

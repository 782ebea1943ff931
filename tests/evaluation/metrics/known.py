"""Codes with known scores, and every metric at a size that takes milliseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from math import log
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier

from betavae_fast.evaluation import metrics

SIZES = (3, 4, 5)
ROWS = 200 * 60
MANY = 20 * ROWS  # rows for the tests of biases, so many that the table itself has no bias


def few_trees(seed: int) -> GradientBoostingClassifier:
    return GradientBoostingClassifier(n_estimators=5, random_state=seed)


SMALL: dict[str, Callable[..., Any]] = {
    "beta_vae": partial(metrics.beta_vae_score, num_train=300, num_test=200, batch_size=16),
    "factor_vae": partial(
        metrics.factor_vae_score, num_train=300, num_test=200, batch_size=16, num_variance_estimate=500
    ),
    "mig": partial(metrics.mig_score, num_train=500),
    "modularity": partial(metrics.modularity_score, num_train=500),
    "irs": partial(metrics.irs_score, num_train=500),
    "unsupervised": lambda codes, factors, rng: metrics.unsupervised_scores(codes, rng, num_train=500),
    "explicitness": partial(metrics.explicitness_score, num_train=300, num_test=200),
    "sap": partial(metrics.sap_score, num_train=300, num_test=200),
    "dci": partial(metrics.dci_scores, num_train=150, num_test=100, classifier=few_trees),
}
WITH_FACTORS = [name for name in SMALL if name != "unsupervised"]


def numbers(name: str, codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> dict[str, float]:
    """The scores of one metric, without its arrays."""
    result = SMALL[name](codes, factors, np.random.default_rng(seed))
    return {field: value for field, value in vars(result).items() if isinstance(value, float)}


def grid(sizes: tuple[int, ...] = SIZES, rows: int = ROWS) -> np.ndarray:
    """All combinations of classes, repeated."""
    combinations = np.argwhere(np.ones(sizes))
    return np.tile(combinations, (rows // len(combinations), 1))


def perfect(factors: np.ndarray) -> np.ndarray:
    """Codes with each factor in its own latent, in another order."""
    return factors[:, ::-1].astype(np.float64)


def rotated() -> tuple[np.ndarray, np.ndarray]:
    """Codes of two similar factors turned by 45°, so that each latent knows as much about one as about the other."""
    factors = grid((5, 5), ROWS // 12)
    one, two = (factors - 2.0).T
    return np.column_stack([one + two, one - two]), factors


def noise(dims: int = 6, rows: int = ROWS, seed: int = 1) -> np.ndarray:
    """Codes without any information."""
    return np.random.default_rng(seed).standard_normal((rows, dims))


def entangled(factors: np.ndarray, dims: int = 6, seed: int = 2) -> np.ndarray:
    """Codes with some information about every factor in every latent."""
    mixing = np.random.default_rng(seed).standard_normal((factors.shape[1], dims))
    return factors @ mixing + 0.3 * noise(dims, len(factors), seed)


def plain_information(a: np.ndarray, b: np.ndarray) -> float:
    """Compute Σ p(a, b) log (p(a, b) / p(a) p(b))."""
    count, of_a, of_b = len(a), Counter(a.tolist()), Counter(b.tolist())
    joint = Counter(zip(a.tolist(), b.tolist(), strict=True))
    return sum(n / count * log(n * count / (of_a[i] * of_b[j])) for (i, j), n in joint.items())

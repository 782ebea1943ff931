"""The classifiers behind the metrics that need one, as disentanglement_lib's study ran them."""

from __future__ import annotations

from typing import Any

from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier


def logistic_regression() -> Any:
    """One L2-regularised regression (C = 1) per class against the rest: what ``LogisticRegression()`` of
    scikit-learn was until 0.21, when the published numbers were made. Later versions fit one multinomial
    model, whose BetaVAE scores of entangled codes come out up to 2 points higher."""
    return OneVsRestClassifier(LogisticRegression(solver="liblinear"))


def gradient_boosting(seed: int) -> Any:
    """100 boosting rounds of depth-3 trees, one tree per class and round."""
    return GradientBoostingClassifier(random_state=seed)

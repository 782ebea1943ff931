"""The classifiers of the metrics that need one, as in the study of disentanglement_lib."""

from __future__ import annotations

from typing import Any

from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier


def logistic_regression() -> Any:
    """One L2-regularised regression (C = 1) for each class against the rest.

    scikit-learn's ``LogisticRegression()`` did this until version 0.21, when the published numbers were made. Later
    versions fit one multinomial model, which gives entangled codes BetaVAE scores up to 2 points higher.
    """
    return OneVsRestClassifier(LogisticRegression(solver="liblinear"))


def gradient_boosting(seed: int) -> Any:
    """Gradient boosting with 100 rounds of depth-3 trees, one tree per class and round."""
    return GradientBoostingClassifier(random_state=seed)

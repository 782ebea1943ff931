"""The classifiers are those of the published numbers."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from betavae_fast.evaluation.metrics import gradient_boosting, logistic_regression
from tests.evaluation.metrics.known import entangled, grid


def test_logistic_regression_is_one_against_the_rest():
    factors = grid(rows=600)
    codes, classes = entangled(factors), factors[:, 2]
    model = logistic_regression().fit(codes, classes)
    single = [LogisticRegression(C=1.0, solver="liblinear").fit(codes, classes == c) for c in range(5)]
    each = np.column_stack([regression.predict_proba(codes)[:, 1] for regression in single])
    assert np.allclose(model.predict_proba(codes), each / each.sum(axis=1, keepdims=True), atol=1e-12)
    assert np.array_equal(model.predict(codes), each.argmax(axis=1))


def test_gradient_boosting_has_a_hundred_rounds_of_small_trees():
    settings = gradient_boosting(7).get_params()
    assert (settings["n_estimators"], settings["max_depth"], settings["learning_rate"]) == (100, 3, 0.1)
    assert (settings["subsample"], settings["random_state"]) == (1.0, 7)

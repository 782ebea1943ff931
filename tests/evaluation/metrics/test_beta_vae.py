"""The BetaVAE score for codes with a known score."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from betavae_fast.evaluation.metrics import beta_vae_score, logistic_regression
from tests.evaluation.metrics.known import entangled, grid, noise, perfect, rotated

SIZE = {"num_train": 2000, "num_test": 1000}


def test_perfect_codes_score_one():
    factors = grid()
    result = beta_vae_score(perfect(factors), factors, np.random.default_rng(0), **SIZE)
    assert (result.score, result.train_accuracy) == (1.0, 1.0)


def test_duplicated_and_dead_latents_do_no_harm():
    factors = grid()
    codes = np.hstack([perfect(factors), perfect(factors), np.full((len(factors), 2), 0.1)])
    assert beta_vae_score(codes, factors, np.random.default_rng(0), **SIZE).score == 1.0


def test_noise_is_at_chance():
    score = beta_vae_score(noise(), grid(), np.random.default_rng(0), **SIZE).score
    assert score == pytest.approx(1 / 3, abs=0.05)  # 3 standard deviations of 1,000 guesses


def test_factors_turned_by_45_degrees_are_at_chance():
    score = beta_vae_score(*rotated(), np.random.default_rng(0), **SIZE).score
    assert score == pytest.approx(1 / 2, abs=0.05)


def test_one_factor_cannot_be_confused():
    assert beta_vae_score(noise(), grid()[:, :1], np.random.default_rng(0)).score == 1.0


class Recorder:
    """A classifier that keeps its inputs and is never right."""

    def fit(self, points, labels):
        self.shown = [(points, labels)]
        return self

    def score(self, points, labels):
        self.shown.append((points, labels))
        return 0.0


def test_points_are_mean_distances_within_pairs_that_share_the_factor():
    factors = grid((3, 4))
    recorder = Recorder()
    rng = np.random.default_rng(0)
    beta_vae_score(
        factors * [1.0, 10.0], factors, rng, num_train=500, num_test=200, classifier=lambda: recorder
    )
    points, labels = recorder.shown[0]
    assert points.shape == (500, 2) and len(recorder.shown[1][0]) == 200
    assert np.bincount(labels) == pytest.approx([250, 250], abs=45)
    assert (points[np.arange(500), labels] == 0).all()
    # Two independent uniform classes out of n are (n² − 1) / 3n apart on average.
    assert points[labels == 1, 0].mean() == pytest.approx(8 / 9, rel=0.03)
    assert points[labels == 0, 1].mean() == pytest.approx(10 * 15 / 12, rel=0.03)
    assert (points * 64 == np.round(points * 64)).all()  # means over 64 pairs of whole numbers


def test_logistic_regression_is_one_against_the_rest():
    factors = grid(rows=600)
    codes, classes = entangled(factors), factors[:, 2]
    model = logistic_regression().fit(codes, classes)
    single = [LogisticRegression(C=1.0, solver="liblinear").fit(codes, classes == c) for c in range(5)]
    each = np.column_stack([regression.predict_proba(codes)[:, 1] for regression in single])
    assert np.allclose(model.predict_proba(codes), each / each.sum(axis=1, keepdims=True), atol=1e-12)
    assert np.array_equal(model.predict(codes), each.argmax(axis=1))

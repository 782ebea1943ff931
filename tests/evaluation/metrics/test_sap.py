"""SAP for codes with known accuracies."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from betavae_fast.evaluation.metrics import sap_score
from tests.evaluation.metrics.known import entangled, grid, noise, perfect, rotated

SIZE = {"num_train": 2000, "num_test": 1000}


def test_two_classes_are_told_apart_by_their_latent_and_guessed_by_another():
    factors = grid((2, 2))
    result = sap_score(perfect(factors), factors, np.random.default_rng(0), **SIZE)
    assert result.accuracies == pytest.approx(np.array([[0.5, 1.0], [1.0, 0.5]]), abs=0.05)
    assert result.accuracies[::-1].diagonal().tolist() == [1.0, 1.0]
    assert result.score == pytest.approx(0.5, abs=0.05)  # the largest gap with two balanced classes


def test_duplicated_latents_leave_no_gap():
    factors = grid()
    codes = np.hstack([perfect(factors), perfect(factors)])
    assert sap_score(codes, factors, np.random.default_rng(0), **SIZE).score == 0.0


def test_noise_and_factors_turned_by_45_degrees_leave_none():
    assert sap_score(noise(), grid(), np.random.default_rng(0), **SIZE).score < 0.05
    assert sap_score(*rotated(), np.random.default_rng(0), **SIZE).score < 0.05


def test_a_dead_latent_predicts_one_class():
    factors = np.repeat([[0], [0], [0], [1]], 300, axis=0)
    codes = np.column_stack([factors, np.full(len(factors), 0.1)])
    result = sap_score(codes, factors, np.random.default_rng(0), **SIZE)
    assert result.accuracies[0, 0] == 1.0
    assert min(abs(result.accuracies[1, 0] - share) for share in (0.25, 0.75)) < 0.05


def test_one_latent_has_no_second():
    factors = grid((2, 2))
    assert sap_score(perfect(factors)[:, :1], factors[:, 1:], np.random.default_rng(0), **SIZE).score == 1.0


def test_the_machine_is_the_published_one():
    factors = np.minimum(grid((6,), rows=1200), 2)  # classes of different frequencies
    codes = entangled(factors, dims=2)
    rng = np.random.default_rng(4)
    result = sap_score(codes, factors, rng, **SIZE)
    rng = np.random.default_rng(4)
    train, test = (rng.integers(1200, size=count) for count in SIZE.values())
    for dim in range(2):
        machine = LinearSVC(C=0.01, class_weight="balanced").fit(
            codes[train, dim : dim + 1], factors[train, 0]
        )
        right = machine.predict(codes[test, dim : dim + 1]) == factors[test, 0]
        assert result.accuracies[dim, 0] == right.mean()

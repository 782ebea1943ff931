"""DCI: entropies computed by hand, its data flow with a transparent classifier, and known codes."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from betavae_fast.evaluation.metrics import dci_scores, gradient_boosting
from betavae_fast.evaluation.metrics.dci import completeness, disentanglement
from tests.evaluation.metrics.known import grid, noise, perfect, rotated

SIZE = {"num_train": 400, "num_test": 300}


def test_entropies_by_hand():
    importance = np.array([[0.5, 0.25, 0.25], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    first = 1 - 1.5 * log(2) / log(3)
    assert disentanglement(importance) == pytest.approx((1.0 * first + 0.5 * 1) / 1.5)
    even, alone = 1 - log(2) / log(3), 1.0
    assert completeness(importance) == pytest.approx((1.0 * even + 0.25 * alone + 0.25 * alone) / 1.5)


def test_the_floor_is_that_of_the_published_scores():
    importance = np.array([[1e-11, 0.0]])
    shares = np.array([2 / 3, 1 / 3])
    assert disentanglement(importance) == pytest.approx(1 + (shares * np.log(shares)).sum() / log(2))


def test_no_importance_at_all_scores_zero():
    assert disentanglement(np.zeros((4, 3))) == disentanglement(np.zeros((4, 1))) == 0.0
    assert completeness(np.zeros((4, 3))) == completeness(np.zeros((1, 3))) == 0.0


def test_one_factor_or_one_latent_cannot_be_spread():
    assert disentanglement(np.array([[0.3], [0.7]])) == pytest.approx(1.0)
    assert completeness(np.array([[0.3, 0.7]])) == pytest.approx(1.0)


def test_importances_and_accuracies_are_the_classifiers():
    made = []

    class Known:
        def __init__(self, seed):
            self.seed, self.number, self.scored = seed, len(made), []
            made.append(self)

        def fit(self, codes, classes):
            self.fitted = codes, classes
            self.feature_importances_ = np.array([[0.75, -0.25], [0.0, 1.0], [0.5, 0.5]])[self.number]
            return self

        def score(self, codes, classes):
            self.scored.append(len(codes))
            return (0.1 if len(codes) == 300 else 0.6) + 0.1 * self.number

    factors = grid()
    result = dci_scores(factors[:, :2] * 1.0, factors, np.random.default_rng(0), **SIZE, classifier=Known)
    assert result.importance.tolist() == [[0.75, 0.0, 0.5], [0.25, 1.0, 0.5]]
    assert result.accuracies == pytest.approx([0.1, 0.2, 0.3])
    assert (result.informativeness, result.informativeness_train) == pytest.approx((0.2, 0.7))
    assert (result.disentanglement, result.completeness) == (
        disentanglement(result.importance),
        completeness(result.importance),
    )
    assert len({classifier.seed for classifier in made}) == 3
    for number, classifier in enumerate(made):
        codes, classes = classifier.fitted
        assert len(codes) == 400 and classifier.scored == [300, 400]
        if number < 2:
            assert np.array_equal(codes[:, number], classes)


def test_perfect_codes():
    factors = grid()
    result = dci_scores(perfect(factors), factors, np.random.default_rng(0), **SIZE)
    assert result.disentanglement > 0.95 and result.completeness > 0.95
    assert (result.informativeness, result.informativeness_train) == (1.0, 1.0)


def test_duplicated_and_dead_latents():
    """Two latents for each factor share its importance about evenly, which costs ln 2 of the possible ln 8."""
    factors = grid((3, 3))
    codes = np.hstack([perfect(factors), perfect(factors), np.full((len(factors), 4), 0.1)])
    result = dci_scores(codes, factors, np.random.default_rng(0), **SIZE)
    assert (result.importance[4:] == 0).all()
    assert result.disentanglement > 0.95
    assert result.completeness == pytest.approx(1 - log(2) / log(8), abs=0.03)
    assert result.informativeness == 1.0


def test_noise_and_factors_turned_by_45_degrees():
    result = dci_scores(noise(), grid(), np.random.default_rng(0), **SIZE)
    assert result.disentanglement < 0.1 and result.completeness < 0.1
    assert result.informativeness == pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 3, abs=0.06)
    result = dci_scores(*rotated(), np.random.default_rng(0), **SIZE)
    assert result.disentanglement < 0.1 and result.completeness < 0.1
    assert result.informativeness > 0.9  # the codes hold everything, but not in one place


def test_gradient_boosting_has_a_hundred_rounds_of_small_trees():
    settings = gradient_boosting(7).get_params()
    assert (settings["n_estimators"], settings["max_depth"], settings["learning_rate"]) == (100, 3, 0.1)
    assert (settings["subsample"], settings["random_state"]) == (1.0, 7)

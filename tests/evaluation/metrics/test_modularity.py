"""Modularity computed by hand, and explicitness compared with areas counted pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from betavae_fast.evaluation.metrics import explicitness_score, mig_score, modularity_score
from betavae_fast.evaluation.metrics.modularity import areas_under_roc, modularity_per_code
from tests.evaluation.metrics.known import MANY, entangled, grid, noise, perfect, rotated


def test_modularity_by_hand():
    information = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert modularity_per_code(information).tolist() == [1.0, 1 - 1 / (2 * 4), 0.0, 0.0]
    assert modularity_per_code(np.array([[0.3], [0.0]])).tolist() == [1.0, 0.0]  # a single factor


def test_modularity_survives_informations_whose_squares_underflow():
    assert modularity_per_code(np.array([[1e-200, 0.0]])).tolist() == [1.0]


def test_modularity_is_that_of_the_mutual_information():
    factors = grid()
    codes = entangled(factors)
    result = modularity_score(codes, factors, np.random.default_rng(0))
    information = mig_score(codes, factors, np.random.default_rng(0)).mutual_information
    assert np.array_equal(result.mutual_information, information)
    squares = information**2
    expected = 1 - (squares.sum(axis=1) - squares.max(axis=1)) / (2 * squares.max(axis=1))
    assert result.per_code == pytest.approx(expected)
    assert result.score == pytest.approx(expected.mean())


def test_modularity_of_known_codes():
    factors = grid()
    codes = perfect(factors)
    once = modularity_score(codes, factors, np.random.default_rng(0)).score
    assert 0.999 < once <= 1.0
    assert modularity_score(np.hstack([codes, codes]), factors, np.random.default_rng(0)).score == once
    dead = np.hstack([codes, np.full_like(codes, 0.1)])
    assert modularity_score(dead, factors, np.random.default_rng(0)).score == pytest.approx(once / 2)
    assert modularity_score(*rotated(), np.random.default_rng(0)).score < 0.05


def test_modularity_of_noise_follows_the_bias():
    """The informations are in the ratio 2 : 3 : 4, the number of each factor's classes minus one. The score is 1 − (4 +
    9) / (2 · 16).
    """
    score = modularity_score(noise(rows=MANY), grid(rows=MANY), np.random.default_rng(0)).score
    assert score == pytest.approx(1 - 13 / 32, abs=0.1)


def one_hot(factors: np.ndarray) -> np.ndarray:
    return np.hstack([np.eye(size)[column] for size, column in zip((3, 4, 5), factors.T, strict=True)])


SIZE = {"num_train": 2000, "num_test": 1000}


def test_explicitness_of_known_codes():
    factors = grid()
    result = explicitness_score(one_hot(factors), factors, np.random.default_rng(0), **SIZE)
    assert (result.score, result.train_score, result.per_factor.tolist()) == (1.0, 1.0, [1.0, 1.0, 1.0])
    result = explicitness_score(noise(rows=len(factors)), factors, np.random.default_rng(0), **SIZE)
    assert result.per_factor == pytest.approx(0.5, abs=0.05)
    dead = explicitness_score(np.full((len(factors), 3), 0.1), factors, np.random.default_rng(0), **SIZE)
    assert (dead.score, dead.train_score) == (0.5, 0.5)


def test_fresh_codes_are_standardised_as_training_codes_are():
    seen = []

    class Recorder:
        classes_ = np.arange(3)

        def fit(self, codes, classes):
            return self

        def predict_proba(self, codes):
            seen.append(codes)
            return np.zeros((len(codes), 3))

    factors = grid((3,), rows=600)
    codes = 5 + 3 * noise(2, 600)
    explicitness_score(
        codes, factors, np.random.default_rng(0), num_train=50, num_test=20, classifier=Recorder
    )
    rng = np.random.default_rng(0)
    reference, fresh = (codes[rng.integers(600, size=count)] for count in (50, 20))
    for shown, raw in zip(seen, (fresh, reference), strict=True):
        assert shown == pytest.approx((raw - reference.mean(axis=0)) / reference.std(axis=0))


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_areas_are_shares_of_pairs_in_order(seed):
    rng = np.random.default_rng(seed)
    scores, classes = rng.integers(5, size=(20, 3)) / 4, np.append(rng.integers(3, size=17), [0, 1, 2])
    expected = []
    for c in range(3):
        members, rest = scores[classes == c, c], scores[classes != c, c]
        expected.append(np.mean([(m > r) + 0.5 * (m == r) for m in members for r in rest]))
    assert areas_under_roc(scores, classes) == pytest.approx(expected)


def test_a_class_that_training_never_showed_is_at_chance():
    class Knows01:
        classes_ = np.array([0, 1])

        def fit(self, codes, classes):
            return self

        def predict_proba(self, codes):
            one = codes[:, 0] > 0
            return np.column_stack([~one, one]).astype(float)

    factors = np.repeat([[0], [1], [2]], 100, axis=0)
    codes = np.where(factors == 1, 1.0, -1.0)
    result = explicitness_score(codes, factors, np.random.default_rng(0), **SIZE, classifier=Knows01)
    # Class 0: class 1 scores below it and class 2 level with it, so 3/4. Class 1: both others score below. Class 2: the
    # classifier does not know it, so ½.
    assert result.score == pytest.approx((0.75 + 1 + 0.5) / 3, abs=0.01)

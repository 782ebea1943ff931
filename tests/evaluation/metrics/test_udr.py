"""UDR computed by hand, and for models that agree or do not agree at all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Lasso

from betavae_fast.evaluation.metrics import udr_scores
from betavae_fast.evaluation.metrics.udr import _spearman, relative_strength
from tests.evaluation.metrics.known import noise

KL = np.ones(4)


def score(codes, kl=None, **options):
    kl = [np.ones(of_model.shape[1]) for of_model in codes] if kl is None else kl
    return udr_scores(codes, kl, np.random.default_rng(0), **options)


def test_relative_strength_by_hand():
    assert relative_strength(np.eye(3)) == 1.0
    assert relative_strength(np.zeros((2, 3))) == 0.0
    assert relative_strength(np.full((4, 2), 0.5)) == pytest.approx((0.25 / 2 + 0.25 / 1) / 2)
    # Columns: 1/1.5 and 0.25/0.5; rows: 1/1, 0.25/1.
    assert relative_strength(np.array([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx(
        ((2 / 3 + 1 / 2) / 2 + (1 + 1 / 4) / 2) / 2
    )


@pytest.mark.parametrize(
    ("correlation", "perfect", "within"), [("lasso", 0.9, 0.01), ("spearman", 1.0, 0.07)]
)
def test_models_that_agree_up_to_order_sign_and_scale(correlation, perfect, within):
    codes = noise(4)
    other = codes[:, [2, 0, 3, 1]] * [1.0, -5.0, 0.2, -1.0]
    result = score([codes, other, codes], correlation=correlation, num_points=10_000)
    assert result.scores == pytest.approx([perfect] * 3, abs=within)
    assert result.pairwise[0, 2] == result.pairwise[2, 0] > 0.85
    assert result.pairwise.diagonal().tolist() == [0.0] * 3


def test_models_that_share_nothing():
    codes = [noise(4, seed=seed) for seed in range(3)]
    assert score(codes).scores.tolist() == [0.0] * 3  # the penalty removes every coefficient
    assert score(codes, correlation="spearman").scores.max() < 0.05


def test_a_turned_model_agrees_less():
    codes = noise(2)
    turned = codes @ [[1.0, 1.0], [1.0, -1.0]]
    result = score([codes, turned], num_points=10_000)
    # All four coefficients are √½ − 0.1, so each max² / sum is half of that.
    assert result.pairwise[0, 1] == pytest.approx((np.sqrt(0.5) - 0.1) / 2, abs=0.01)


def test_scores_are_medians_of_the_others_explaining_a_model():
    codes = noise(3)
    models = [codes, codes @ np.triu(np.ones((3, 3))), np.tanh(codes), codes[:, :2]]
    result = score(models)
    for model in range(4):
        others = [result.pairwise[other, model] for other in range(4) if other != model]
        assert result.scores[model] == np.median(others)
    assert not np.array_equal(result.pairwise, result.pairwise.T)


def test_the_lasso_is_the_published_one():
    one, two = noise(3), noise(3) @ np.triu(np.ones((3, 3)))
    rows = np.random.default_rng(0).integers(len(one), size=1000)
    x, y = ((z[rows] - z[rows].mean(axis=0)) / z[rows].std(axis=0) for z in (one, two))
    coefficients = np.stack([np.abs(Lasso(alpha=0.1).fit(x, target).coef_) for target in y.T], axis=1)
    assert score([one, two]).pairwise[0, 1] == pytest.approx(relative_strength(coefficients))


def test_rank_correlations_are_scipys():
    one = np.random.default_rng(0).integers(5, size=(60, 3)) * 1.0  # values with ties
    two = one[:, ::-1] ** 2 + noise(3, 60)
    expected = [[abs(spearmanr(a, b).statistic) for b in two.T] for a in one.T]
    assert _spearman(one, two) == pytest.approx(np.array(expected))
    assert (_spearman(np.full((60, 1), 0.1), two) == 0).all()


@pytest.mark.parametrize("correlation", ["lasso", "spearman"])
def test_uninformative_latents_are_left_out(correlation):
    codes = noise(3)
    padded = np.hstack([codes, noise(2, seed=9), np.full((len(codes), 1), 0.1)])
    kl = [np.ones(3), np.array([1.0, 1.0, 0.011, 0.01, 0.0, 0.0])]
    expected = score([codes, codes], correlation=correlation)
    result = score([codes, padded], kl, correlation=correlation)
    assert np.array_equal(result.pairwise, expected.pairwise)
    unmasked = score([codes, padded], correlation=correlation)  # every KL is 1
    assert (unmasked.scores < expected.scores - 0.1).all()


def test_a_model_without_informative_latents_scores_zero():
    codes = noise(3)
    assert score([codes, codes], [np.ones(3), np.zeros(3)]).scores.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("codes", "kl", "options", "message"),
    [
        ([noise(4)], [KL], {}, "at least two, got 1 and 1"),
        ([noise(4)] * 2, [KL], {}, "of the same models, at least two, got 2 and 1"),
        ([noise(4), noise(4, 50)], [KL] * 2, {}, "got 12000 for model 0 and 50 for model 1"),
        ([noise(4)] * 2, [KL, KL[:3]], {}, "kl of model 1 must be 4 finite numbers"),
        ([noise(4)] * 2, [KL * np.nan, KL], {}, "kl of model 0 must be 4 finite numbers"),
        ([noise(4)] * 2, [KL] * 2, {"correlation": "pearson"}, "correlation must be one of .* got 'pearson'"),
        ([noise(4)] * 2, [KL] * 2, {"num_points": 1}, "num_points must be at least 2, got 1"),
    ],
)
def test_bad_arguments_are_refused(codes, kl, options, message):
    with pytest.raises(ValueError, match=message):
        score(codes, kl, **options)

"""Closed forms for two latents, and the scores of independent and of dependent latents."""

from __future__ import annotations

import numpy as np
import pytest

from betavae_fast.evaluation.metrics import unsupervised_scores
from tests.evaluation.metrics.known import MANY, noise, plain_information


def score(codes, **options):
    return unsupervised_scores(codes, np.random.default_rng(0), **options)


def test_two_latents_in_closed_form():
    one, two = noise(2).T
    codes = np.column_stack([3 * one, one + 0.5 * two])
    rows = np.random.default_rng(0).integers(len(codes), size=10_000)
    result = score(codes)
    (a, c), (_, b) = np.cov(codes[rows].T)
    assert result.gaussian_total_correlation == pytest.approx(-0.5 * np.log(1 - c**2 / (a * b)))
    # tr M½ = √(tr M + 2 √det M) of a 2 × 2 matrix, here M = D½ Σ D½.
    root = np.sqrt(a**2 + b**2 + 2 * np.sqrt(a * b * (a * b - c**2)))
    assert result.gaussian_wasserstein_correlation == pytest.approx(2 * (a + b) - 2 * root)
    assert result.gaussian_wasserstein_correlation_normalised == pytest.approx(2 - 2 * root / (a + b))
    bins = [np.digitize(z, np.histogram_bin_edges(z, 20)[1:-1]) for z in codes[rows].T]
    information = plain_information(*bins)
    assert result.mutual_information_score == pytest.approx(information)
    assert result.mutual_information[0, 1] == result.mutual_information[1, 0] == pytest.approx(information)


def test_information_is_averaged_over_pairs_of_different_latents():
    result = score(noise(4) @ np.triu(np.ones((4, 4))))
    pairs = [result.mutual_information[i, j] for i in range(4) for j in range(4) if i != j]
    assert result.mutual_information_score == pytest.approx(np.mean(pairs))


def test_independent_latents_score_zero_but_for_the_bias():
    result = score(noise(3, MANY))
    # Squared correlations of N independent pairs are 1/N on average.
    assert 0 <= result.gaussian_total_correlation < 3 * 5 / 10_000
    assert 0 <= result.gaussian_wasserstein_correlation < 3 * 5 / 10_000
    assert result.mutual_information_score == pytest.approx(19**2 / 20_000, rel=0.4)


def test_a_latent_that_follows_from_others_makes_the_total_correlation_infinite():
    codes = noise(3)
    assert score(np.hstack([codes, codes[:, :1]])).gaussian_total_correlation == np.inf
    assert score(np.hstack([codes, codes @ np.ones((3, 1))])).gaussian_total_correlation == np.inf
    duplicated = score(codes[:, [0, 0]])
    # For equal latents, D½ Σ D½ has one nonzero eigenvalue, 2 σ⁴, so the distance is 4 σ² − 2 √2 σ².
    assert duplicated.gaussian_wasserstein_correlation_normalised == pytest.approx(2 - np.sqrt(2))


def test_constant_latents_add_nothing():
    codes = noise(3) @ np.triu(np.ones((3, 3)))
    alive, with_dead = score(codes), score(np.hstack([codes, np.full((len(codes), 3), 0.1)]))
    for name, value in vars(alive).items():
        if name.startswith("gaussian"):
            assert getattr(with_dead, name) == value
    # Pairs with a constant share nothing, so 6 of 30 pairs are left.
    assert with_dead.mutual_information_score == pytest.approx(alive.mutual_information_score * 6 / 30)


@pytest.mark.parametrize("dims", [1, 4])
def test_only_constants(dims):
    result = score(np.full((10, dims), 0.1))
    assert [value for value in vars(result).values() if isinstance(value, float)] == [0.0] * 4


def test_one_latent_depends_on_nothing():
    result = score(noise(1))
    values = [value for value in vars(result).values() if isinstance(value, float)]
    assert values == pytest.approx([0.0] * 4, abs=1e-12)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="codes must be finite, got nan in row 1, column 0"):
        score(np.array([[0.0], [np.nan]]))
    with pytest.raises(ValueError, match="num_train must be at least 2, got 1"):
        score(noise(2), num_train=1)
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        score(noise(2), num_bins=0)

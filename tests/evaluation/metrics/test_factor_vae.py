"""The FactorVAE score, compared with votes counted one by one, and for codes with a known score."""

from __future__ import annotations

import numpy as np
import pytest

from betavae_fast.evaluation.metrics import factor_vae_score
from tests.evaluation.metrics.known import entangled, grid, noise, perfect, rotated

SIZE = {"num_train": 2000, "num_test": 1000}


def plain_votes(codes, factors, global_variances, count, batch_size, rng):
    """The votes of the same draws, one after the other."""
    rows, columns = factors.shape
    which = rng.integers(columns, size=(count, 1))
    anchors = rng.integers(rows, size=(count, 1))
    members = [
        np.flatnonzero(factors[:, factor] == factors[anchor, factor])
        for factor, anchor in zip(which[:, 0], anchors[:, 0], strict=True)
    ]
    sizes = np.array([[len(rows)] * batch_size for rows in members])
    offsets = rng.integers(sizes)
    votes = np.zeros((codes.shape[1], columns), dtype=int)
    for vote in range(count):
        batch = codes[members[vote][offsets[vote]]]
        ratios = [
            sum((value - sum(latent) / batch_size) ** 2 for value in latent) / (batch_size - 1) / scale
            for latent, scale in zip(batch.T, global_variances, strict=True)
        ]
        votes[ratios.index(min(ratios)), which[vote, 0]] += 1
    return votes


def test_votes_are_those_counted_one_by_one():
    factors = grid((2, 3, 2), rows=60)
    codes = entangled(factors, dims=4)
    codes[:, 2] *= 1e-3  # pruned
    size = {"num_train": 80, "num_test": 40, "batch_size": 5, "num_variance_estimate": 50}
    result = factor_vae_score(codes, factors, np.random.default_rng(3), **size)

    rng = np.random.default_rng(3)
    global_variances = codes[rng.integers(60, size=50)].var(axis=0, ddof=1)
    kept = [0, 1, 3]
    votes = plain_votes(codes[:, kept], factors, global_variances[kept], 80, 5, rng)
    test = plain_votes(codes[:, kept], factors, global_variances[kept], 40, 5, rng)
    assert result.kept.tolist() == kept
    assert result.votes.tolist() == votes.tolist()
    winner = votes.argmax(axis=1)
    assert result.train_accuracy == sum(votes[dim, winner[dim]] for dim in range(3)) / 80
    assert result.score == sum(test[dim, winner[dim]] for dim in range(3)) / 40


def test_perfect_codes_score_one():
    factors = grid()
    result = factor_vae_score(perfect(factors), factors, np.random.default_rng(0), **SIZE)
    assert (result.score, result.train_accuracy) == (1.0, 1.0)
    assert (result.votes[::-1] > 0).tolist() == np.eye(3, dtype=bool).tolist()
    assert result.votes.sum() == SIZE["num_train"]


def test_duplicated_latents_do_no_harm():
    factors = grid()
    codes = np.hstack([perfect(factors), perfect(factors)])
    assert factor_vae_score(codes, factors, np.random.default_rng(0), **SIZE).score == 1.0


def test_noise_is_at_chance():
    score = factor_vae_score(noise(), grid(), np.random.default_rng(0), **SIZE).score
    assert score == pytest.approx(1 / 3, abs=0.05)


def test_factors_turned_by_45_degrees_are_at_chance():
    score = factor_vae_score(*rotated(), np.random.default_rng(0), **SIZE).score
    assert score == pytest.approx(1 / 2, abs=0.05)


def test_dims_are_kept_by_their_standard_deviation():
    factors = grid((2, 2))
    signs = 2.0 * factors[:, :1] - 1
    codes = np.hstack([0.051 * signs, 0.049 * signs, np.full_like(signs, 0.1), signs])
    kept = factor_vae_score(codes, factors, np.random.default_rng(0), **SIZE).kept
    assert kept.tolist() == [0, 3]
    kept = factor_vae_score(codes, factors, np.random.default_rng(0), **SIZE, threshold=0.0).kept
    assert kept.tolist() == [0, 1, 3]  # a constant code never votes


def test_the_standard_deviation_is_the_unbiased_variances():
    factors = grid((2, 2))
    codes = noise(1, len(factors))
    sample = codes[np.random.default_rng(0).integers(len(codes), size=4)]
    between = (sample.std(ddof=0) + sample.std(ddof=1)) / 2
    options = {**SIZE, "num_variance_estimate": 4, "threshold": between}
    assert factor_vae_score(codes, factors, np.random.default_rng(0), **options).kept.tolist() == [0]


def test_no_kept_dims_score_zero():
    result = factor_vae_score(0.01 * noise(), grid(), np.random.default_rng(0), **SIZE)
    assert (result.score, result.train_accuracy, len(result.kept)) == (0.0, 0.0, 0)
    assert result.votes.shape == (0, 3)

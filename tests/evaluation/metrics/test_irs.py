"""IRS computed by hand and value by value."""

from __future__ import annotations

import numpy as np
import pytest

from betavae_fast.evaluation.metrics import irs_score
from tests.evaluation.metrics.known import entangled, grid, noise, perfect


def test_by_hand():
    """z is ±½ for one factor plus ±1 for the other. It is at most 1.5 from 0, 1 from the mean with the first factor
    fixed, and ½ with the second.
    """
    factors = grid((2, 2))
    codes = (factors - 0.5) @ [[1.0, 0.0, 4.0], [2.0, 1.0, 0.0]]
    result = irs_score(codes, factors, np.random.default_rng(0), num_train=100_000)
    assert result.matrix == pytest.approx(np.array([[1 / 3, 2 / 3], [0, 1], [1, 0]]), abs=0.01)
    assert result.max_deviations == pytest.approx([1.5, 0.5, 2.0], abs=0.01)
    assert result.score == pytest.approx((1.5 * 2 / 3 + 0.5 + 2) / 4, abs=0.01)


@pytest.mark.parametrize("quantile", [0.5, 0.99, 1.0])
def test_matches_the_definition(quantile):
    factors = grid((3, 4), rows=120)
    codes = entangled(factors, dims=3)
    rng = np.random.default_rng(1)
    result = irs_score(codes, factors, rng, num_train=90, diff_quantile=quantile)
    rows = np.random.default_rng(1).integers(120, size=90)
    z, classes = codes[rows], factors[rows]
    for d in range(3):
        largest = max(abs(z[:, d] - z[:, d].mean()))
        for k in range(2):
            spread = []
            for value in set(classes[:, k]):
                same = z[classes[:, k] == value, d]
                spread.append(np.percentile(abs(same - same.mean()), 100 * quantile))
            assert result.matrix[d, k] == pytest.approx(1 - np.mean(spread) / largest)
    expected = np.average(result.matrix.max(axis=1), weights=result.max_deviations)
    assert result.score == pytest.approx(expected)


def test_perfect_and_duplicated_codes_score_one():
    factors = grid()
    codes = np.hstack([perfect(factors), perfect(factors)])
    assert irs_score(codes, factors, np.random.default_rng(0)).score == 1.0


def test_of_noise_only_the_shape_of_its_tail_is_left():
    uniform = np.random.default_rng(0).uniform(-1, 1, size=(12_000, 3))
    assert irs_score(uniform, grid(), np.random.default_rng(0)).score == pytest.approx(0.01, abs=0.01)
    gaussian = noise(rows=12_000)
    expected = 1 - 2.576 / np.abs(gaussian).max(axis=0).mean()  # 99 of 100 are within 2.576 σ
    assert irs_score(gaussian, grid(), np.random.default_rng(0)).score == pytest.approx(expected, abs=0.05)


def test_constant_latents_are_dropped():
    factors = grid()
    codes = np.insert(perfect(factors), 1, 0.1, axis=1)
    result = irs_score(codes, factors, np.random.default_rng(0))
    assert result.alive.tolist() == [0, 2, 3]
    assert (result.score, len(result.matrix)) == (1.0, 3)
    nothing = irs_score(np.full((len(factors), 2), 0.1), factors, np.random.default_rng(0))
    assert (nothing.score, nothing.matrix.shape, len(nothing.alive)) == (0.0, (0, 3), 0)


def test_many_classes_share_bins():
    """40 classes fall two by two into 20 bins, so a latent that equals the factor moves by half a class within a bin."""
    factors = grid((40, 2))
    codes = factors[:, :1].astype(float)
    result = irs_score(codes, factors, np.random.default_rng(0), num_train=50_000)
    assert result.matrix[0, 0] == pytest.approx(1 - 0.5 / 19.5, abs=0.002)
    exact = irs_score(codes, factors, np.random.default_rng(0), num_train=50_000, num_bins=40)
    assert exact.matrix[0, 0] == 1.0


@pytest.mark.parametrize("quantile", [-0.1, 1.01, float("nan")])
def test_quantiles_outside_0_to_1_are_refused(quantile):
    with pytest.raises(ValueError, match=rf"diff_quantile must be in \[0, 1\], got {quantile}"):
        irs_score(noise(), grid(), np.random.default_rng(0), diff_quantile=quantile)

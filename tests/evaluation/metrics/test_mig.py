"""MIG, compared with the definition, and for codes with a known gap."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from betavae_fast.evaluation.metrics import mig_score
from tests.evaluation.metrics.known import MANY, entangled, grid, noise, perfect, plain_information, rotated


def test_matches_the_definition():
    factors = grid((2, 3), rows=60)
    codes = entangled(factors, dims=3)
    result = mig_score(codes, factors, np.random.default_rng(5), num_train=40, num_bins=4)
    rows = np.random.default_rng(5).integers(60, size=40)
    gaps = []
    for k in range(2):
        information = []
        for d in range(3):
            values = codes[rows, d]
            inner_edges = np.histogram_bin_edges(values, 4)[1:-1]
            information.append(plain_information(np.digitize(values, inner_edges), factors[rows, k]))
        assert result.mutual_information[:, k] == pytest.approx(information, abs=1e-13)
        _, second, first = sorted(information)
        gaps.append((first - second) / plain_information(factors[rows, k], factors[rows, k]))
    assert result.gaps == pytest.approx(gaps, abs=1e-13)
    assert result.score == pytest.approx(sum(gaps) / 2, abs=1e-13)


def test_perfect_codes_score_one_but_for_the_bias():
    factors = grid()
    result = mig_score(perfect(factors), factors, np.random.default_rng(0))
    assert 0.999 < result.score < 1.0  # the bias is at most 3 · 4 / 2N of log 4
    assert result.entropies == pytest.approx([log(3), log(4), log(5)], abs=1e-3)
    assert result.mutual_information[::-1].diagonal().tolist() == result.entropies.tolist()


def test_one_latent_has_no_second():
    factors = grid()
    result = mig_score(perfect(factors)[:, :1], factors[:, 2:], np.random.default_rng(0))
    assert result.score == 1.0


def test_duplicated_latents_leave_no_gap():
    factors = grid()
    codes = np.hstack([perfect(factors), -perfect(factors)])
    assert mig_score(codes[:, [0, 1, 2, 0, 1, 2]], factors, np.random.default_rng(0)).score == 0.0
    assert mig_score(codes, factors, np.random.default_rng(0)).score < 1e-12  # mirrored bins


def test_noise_has_no_gap():
    result = mig_score(noise(rows=MANY), grid(rows=MANY), np.random.default_rng(0))
    assert 0 <= result.score < 0.002
    # The bias of independent variables, (bins − 1)(classes − 1) / 2N, with all bins of a Gaussian in use.
    assert result.mutual_information.mean(axis=0) == pytest.approx(
        19 * np.array([2, 3, 4]) / 20_000, rel=0.35
    )


def test_factors_turned_by_45_degrees_have_no_gap():
    assert mig_score(*rotated(), np.random.default_rng(0)).score < 0.01

"""Means, variances and gaps where the plain formulas fail."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from betavae_fast.evaluation.metrics.moments import mean, standardise, top_two_gap, variances


def test_means_do_not_depend_on_the_order():
    values = np.array([1e16, 1.0, -1e16, 1.0])
    assert mean(values) == mean(values[::-1]) == 0.5  # a plain sum gives 0.25 or 0


def test_weights_that_are_all_zero_count_alike():
    assert mean(np.array([1.0, 4.0]), np.zeros(2)) == 2.5
    assert mean(np.array([1.0, 4.0]), np.array([0.0, 3.0])) == 4.0


def test_variances_of_constants_are_exactly_zero():
    values = np.column_stack([np.full(1001, 0.1), np.full(1001, 1e8 / 3), np.arange(1001) % 7])
    assert values[:, 0].var() > 0  # the rounding error that the test is about
    assert variances(values).tolist() == [0.0, 0.0, values[:, 2].var()]
    assert variances(values, ddof=1)[2] == values[:, 2].var(ddof=1)


def test_standardise():
    values = np.random.default_rng(0).normal(5.0, 3.0, size=(100, 2))
    values = np.column_stack([values, np.full(100, 0.1)])
    own = standardise(values)
    assert own.mean(axis=0) == pytest.approx(0, abs=1e-14)
    assert own[:, :2].std(axis=0) == pytest.approx(1)
    assert (own[:, 2] == 0).all()
    by_reference = standardise(values[:3] + 1, values)
    expected = (values[:3] + 1 - values.mean(axis=0))[:, :2] / values[:, :2].std(axis=0)
    assert by_reference[:, :2] == pytest.approx(expected)
    assert (by_reference[:, 2] == 0).all()


def test_standardise_survives_variances_that_underflow():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (standardise(np.array([[0.0], [1e-200]])) == 0).all()


def test_the_second_of_one_latent_is_zero():
    assert top_two_gap(np.array([[0.75, 0.0]])).tolist() == [0.75, 0.0]


def test_ties_leave_no_gap():
    assert top_two_gap(np.array([[3.0, 1.0], [1.0, 4.0], [3.0, 2.0]])).tolist() == [0.0, 2.0]

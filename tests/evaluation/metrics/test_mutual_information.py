"""Mutual information, compared with definitions written out cell by cell."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from betavae_fast.evaluation.metrics import discretise, entropies, mutual_information_matrix
from tests.evaluation.metrics.known import plain_information


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 4), st.integers(1, 3))
def test_matches_the_definition(seed, rows, columns_a, columns_b):
    rng = np.random.default_rng(seed)
    # Negative and far apart, because only equality matters.
    a = rng.integers(-2, 4, size=(rows, columns_a)) * 10**14
    b = rng.integers(0, 3, size=(rows, columns_b))
    information = mutual_information_matrix(a, b)
    for i in range(columns_a):
        assert entropies(a)[i] == pytest.approx(plain_information(a[:, i], a[:, i]), abs=1e-13)
        for j in range(columns_b):
            assert information[i, j] == pytest.approx(plain_information(a[:, i], b[:, j]), abs=1e-13)
    assert (information >= 0).all() and not np.signbit(information).any()


def test_known_values():
    a = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]])
    assert mutual_information_matrix(a, a) == pytest.approx(np.diag([log(2), log(2), 0]))
    assert entropies(a) == pytest.approx([log(2), log(2), 0])
    assert not np.signbit(entropies(a)).any()


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_renaming_classes_changes_no_bit(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(20, size=(300, 2)), rng.integers(7, size=(300, 1))
    renamed = rng.permutation(1000)[a]
    assert np.array_equal(mutual_information_matrix(a, b), mutual_information_matrix(renamed, b))
    assert np.array_equal(mutual_information_matrix(a, b), mutual_information_matrix(b, a).T)
    assert np.array_equal(mutual_information_matrix(a, renamed).diagonal(), entropies(a))


def test_a_constant_informs_about_nothing_exactly():
    rng = np.random.default_rng(0)
    b = rng.integers(9, size=(997, 4))
    assert (mutual_information_matrix(np.full((997, 1), 5), b) == 0).all()


def test_blocks_do_not_show(monkeypatch):
    a = np.random.default_rng(0).integers(5, size=(100, 7))
    whole = mutual_information_matrix(a, a)
    monkeypatch.setattr("betavae_fast.evaluation.metrics.mutual_information._CELLS", 60)
    assert np.array_equal(mutual_information_matrix(a, a), whole)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 25), st.booleans())
def test_bins_are_those_of_a_histogram(seed, num_bins, on_edges):
    rng = np.random.default_rng(seed)
    values = rng.integers(-5, 20, size=(50, 3)) / 4 if on_edges else rng.standard_normal((50, 3))
    values[:, 2] = 0.3  # one of the columns is constant
    bins = discretise(values, num_bins)
    for column, of_column in zip(values.T[:2], bins.T[:2], strict=True):
        edges = np.histogram_bin_edges(column, num_bins)
        assert of_column.tolist() == [sum(edge <= value for edge in edges[1:-1]) for value in column]
    assert len(set(bins[:, 2])) == 1
    assert bins.min() >= 0 and bins.max() < num_bins


@pytest.mark.parametrize("classes", range(1, 21))
def test_twenty_bins_keep_up_to_twenty_consecutive_classes_apart(classes):
    factors = np.arange(classes)[:, None]
    assert len(np.unique(discretise(factors, 20))) == classes


def test_a_table_with_itself_gives_the_bits_of_two_equal_tables() -> None:
    """A table with itself counts each pair once."""
    classes = np.random.default_rng(0).integers(0, 7, (500, 9))
    assert np.array_equal(
        mutual_information_matrix(classes, classes), mutual_information_matrix(classes, classes.copy())
    )

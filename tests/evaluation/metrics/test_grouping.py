"""The rows that share a class, compared with a slow search."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from betavae_fast.evaluation.metrics.grouping import group


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 4))
def test_groups_list_the_rows_of_each_class(seed, rows, columns):
    factors = np.random.default_rng(seed).integers(-3, 3, size=(rows, columns)) * 10**12
    groups = group(factors)
    for factor in range(columns):
        for row in range(rows):
            label = groups.labels[factor, row]
            members = groups.rows[groups.starts[label] :][: groups.sizes[label]]
            assert members.tolist() == np.flatnonzero(factors[:, factor] == factors[row, factor]).tolist()


def test_every_row_of_the_class_is_drawn_equally_often_and_no_other():
    factors = np.array([[0, 1], [1, 1], [0, 2], [0, 1], [1, 2]])
    draws = 30_000
    anchors = np.full((draws, 2), 2)
    drawn = group(factors).draw(np.array([0, 1]), anchors, np.random.default_rng(0))
    share = [np.bincount(drawn[:, factor], minlength=5) / draws for factor in (0, 1)]
    assert np.allclose(share[0], [1 / 3, 0, 1 / 3, 1 / 3, 0], atol=0.01)  # 3.7 standard deviations
    assert np.allclose(share[1], [0, 0, 1 / 2, 0, 1 / 2], atol=0.01)
    assert (share[0][[1, 4]] == 0).all() and (share[1][[0, 1, 3]] == 0).all()

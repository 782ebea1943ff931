from __future__ import annotations

import numpy as np

from betavae_fast.evaluation.metrics.gap import top_two_gap


def test_the_second_of_one_latent_is_zero():
    assert top_two_gap(np.array([[0.75, 0.0]])).tolist() == [0.75, 0.0]


def test_ties_leave_no_gap():
    assert top_two_gap(np.array([[3.0, 1.0], [1.0, 4.0], [3.0, 2.0]])).tolist() == [0.0, 2.0]

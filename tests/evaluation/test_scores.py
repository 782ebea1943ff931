"""The metrics, selected by name."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from betavae_fast.choices import MetricName
from betavae_fast.evaluation.encoding import Encoding
from betavae_fast.evaluation.scores import METRICS, score, score_rows

FACTORS = np.argwhere(np.ones((4, 4)))
ENCODING = Encoding(torch.from_numpy(FACTORS).float(), torch.full((16, 2), -12.0))


def test_every_metric_has_a_name_and_every_name_a_metric():
    assert set(METRICS) == set(get_args(MetricName))


def test_which_others_are_asked_for_changes_no_score():
    alone = [s.result.score for s in score(ENCODING, FACTORS, ["mig"], seed=1)]
    together = {(s.metric, s.codes): s.result for s in score(ENCODING, FACTORS, ["irs", "mig"], seed=1)}
    assert alone == [together["mig", "mean"].score, together["mig", "sampled"].score]
    assert alone[0] == pytest.approx(1, abs=0.01)


def test_without_factors_only_what_needs_none_is_computed():
    assert [s.metric for s in score(ENCODING, None, get_args(MetricName), seed=0)] == ["unsupervised"]


def test_a_line_says_what_perfect_and_chance_are():
    (row,) = score_rows(score(ENCODING, FACTORS, ["factor-vae"], seed=0), 2)
    assert (row.label, row.codes, row.value, row.perfect, row.chance) == (
        "FactorVAE score", "mean", 1.0, "1", "0.50"
    )  # fmt: skip


def test_processes_change_no_score():
    one, two = (
        next(score(ENCODING, FACTORS, ["dci"], seed=0, jobs=jobs)).result.importance for jobs in (1, 2)
    )
    np.testing.assert_array_equal(one, two)

"""The metrics, selected by name."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from statistics import fmean, stdev
from typing import get_args

import numpy as np
import pytest
import torch
from rich.console import Console

from betavae_fast.choices import MetricName
from betavae_fast.cli.output import print_scores
from betavae_fast.evaluation import scores
from betavae_fast.evaluation.encoding import Encoding
from betavae_fast.evaluation.metrics import dci_scores, mig_score
from betavae_fast.evaluation.scores import METRICS, Estimate, about_in_use, score, score_rows

FACTORS = np.argwhere(np.ones((4, 4)))
ENCODING = Encoding(torch.from_numpy(FACTORS).float(), torch.full((16, 2), -12.0))
ALL = (0, 1)


def with_shadow() -> Encoding:
    """The factors as codes, and a third channel: the first one's shadow, of a thousandth of its size."""
    noise = torch.rand(16, 1, generator=torch.Generator().manual_seed(0))
    shadow = 1e-3 * (ENCODING.mu[:, :1] + 1e-2 * noise)
    return Encoding(torch.cat([ENCODING.mu, shadow], dim=1), torch.full((16, 3), -12.0))


def test_every_metric_has_a_name_and_every_name_a_metric():
    assert set(METRICS) == set(get_args(MetricName))


def test_which_others_are_asked_for_changes_no_score():
    alone = [s.values for s in score(ENCODING, FACTORS, ["mig"], ALL, seed=1)]
    together = {(s.metric, s.codes): s for s in score(ENCODING, FACTORS, ["irs", "mig"], ALL, seed=1)}
    assert alone == [together["mig", "mean"].values, together["mig", "sampled"].values]
    assert alone[0]["score"].value == pytest.approx(1, abs=0.01)


def test_without_factors_only_what_needs_none_is_computed():
    found = score(ENCODING, None, get_args(MetricName), ALL, seed=0)
    assert [s.metric for s in found] == ["unsupervised"]


def test_a_line_says_what_perfect_and_chance_are():
    (row,) = score_rows(score(ENCODING, FACTORS, ["factor-vae"], ALL, seed=0), 2, 2)
    assert (row.label, row.codes, row.value.value, row.perfect, row.chance) == (
        "FactorVAE score", "mean", 1.0, "1", "0.50"
    )  # fmt: skip


def test_processes_change_no_score():
    one, two = (
        next(score(ENCODING, FACTORS, ["dci"], ALL, seed=0, jobs=jobs)).result.importance for jobs in (1, 2)
    )
    np.testing.assert_array_equal(one, two)


def test_dci_learns_from_as_many_rows_as_asked_and_is_measured_on_half_as_many():
    found = next(score(ENCODING, FACTORS, ["dci"], ALL, seed=0, dci_rows=60)).result
    rng = np.random.default_rng([0, list(METRICS).index("dci")])
    alone = dci_scores(ENCODING.mean_codes, FACTORS, rng, num_train=60, num_test=30)
    np.testing.assert_array_equal(found.importance, alone.importance)
    assert found.rows == 60 and found.informativeness == alone.informativeness


def test_a_score_is_the_mean_over_draws_of_rows_and_the_first_draw_is_the_published_one():
    noise = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0))
    classes = np.random.default_rng(0).integers(4, size=(3000, 2))
    encoding = Encoding(noise, torch.zeros(3000, 3))
    found = next(score(encoding, classes, ["mig"], (0, 1, 2), seed=7))
    rng = np.random.default_rng([7, list(METRICS).index("mig")])
    draws = [mig_score(noise.numpy(), classes, rng).score for _ in range(5)]
    assert found.values["score"] == Estimate(fmean(draws), stdev(draws))
    assert found.result.score == draws[0] != found.values["score"].value


def test_a_score_of_a_single_draw_has_no_spread():
    (row,) = score_rows(score(ENCODING, FACTORS, ["sap"], ALL, seed=0), 2, 2)
    assert row.value.spread is None and "±" not in str(row.value)


def test_a_narrow_terminal_shows_every_letter_of_a_score():
    rows = score_rows(score(ENCODING, None, ["unsupervised"], ALL, seed=0), 0, 2)
    printed = io.StringIO()
    print_scores(Console(file=printed, width=40, soft_wrap=True), rows)
    letters = re.sub(r"\s", "", printed.getvalue())
    assert "…" not in letters and all(part in letters for part in ("correlati", "informati"))


def test_an_infinite_score_is_a_word_and_has_no_spread():
    twice = Encoding(torch.cat([ENCODING.mu, ENCODING.mu], dim=1), torch.full((16, 4), -12.0))
    (found,) = score(twice, None, ["unsupervised"], range(4), seed=0)
    assert str(found.values["gaussian_total_correlation"]) == "infinite"


def test_an_unused_channel_counts_among_all_channels_only():
    """Scores without a scale: the shadow is a runner-up for MIG, and nearly a linear function of the first channel."""
    found = {s.metric: s for s in score(with_shadow(), FACTORS, ["mig", "unsupervised"], ALL, seed=0)}
    rows = score_rows(score(ENCODING, FACTORS, ["mig", "unsupervised"], ALL, seed=0), 2, 2)
    alone = {(row.label, row.codes): row.value for row in rows}
    assert found["mig"].values["score"].value < 0.6
    assert found["unsupervised"].values["gaussian_total_correlation"].value > 3
    in_use = score_rows(score(with_shadow(), FACTORS, ["mig", "unsupervised"], ALL, seed=0), 2, 2)
    assert {(row.label, row.codes): row.in_use for row in in_use if row.codes == "mean"} == {
        key: value for key, value in alone.items() if key[1] == "mean"
    }


@pytest.mark.parametrize("used, reason", [((), "no channel in use"), ((1,), "one channel in use")])
def test_a_score_that_is_undefined_over_the_channels_in_use_says_why(used, reason):
    found = list(score(ENCODING, FACTORS, ["mig", "unsupervised"], used, seed=0))
    rows = {row.label: row.in_use for row in score_rows(found, 2, len(used))}
    assert rows["Gaussian total correlation, nats"] == reason
    if used:
        assert rows["MIG"].value == pytest.approx(0.5, abs=0.01)  # one of two factors is in the channel
    else:
        assert rows["MIG"] == reason


@pytest.mark.parametrize("used, shown", [((0, 1), "0.500"), ((0,), "not computed")])
def test_a_metric_of_slow_classifiers_is_computed_once(monkeypatch, used, shown):
    """All channels in use is what was computed; fewer would take minutes again."""
    calls = []

    class Fixed:
        disentanglement = completeness = informativeness = 0.5

    def compute(codes, *_, **__):
        calls.append(codes.shape)
        return Fixed

    monkeypatch.setitem(scores.METRICS, "dci", replace(METRICS["dci"], compute=compute))
    rows = score_rows(score(ENCODING, FACTORS, ["dci"], used, seed=0), 2, len(used))
    assert calls == [(16, 2)]
    assert ("not computed" in about_in_use(rows)) == (shown == "not computed")
    assert [str(row.in_use) for row in rows] == [shown] * 3

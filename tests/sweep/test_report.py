"""The findings of a sweep, from the results of its runs."""

from __future__ import annotations

from math import nan

import numpy as np

from betavae_fast.evaluation import pictures
from betavae_fast.sweep.grid import grid
from betavae_fast.sweep.report import KL, SAMPLED, UDR, Findings, Result, lines, widest_setting


def findings(values: list[dict[str, float]], **entries: list) -> Findings:
    return Findings([Result(run, found) for run, found in zip(grid(entries), values, strict=True)])


def test_a_line_for_each_choice_of_the_other_settings() -> None:
    found = findings(
        [{KL: kl, f"MIG {SAMPLED}": 0.5} for kl in (1.0, 2.0, 4.0, 8.0, 3.0, 5.0)],
        objective=["beta", "capacity"],
        beta=[4.0, 1.0],
        seed=[0, 1],
    )
    assert widest_setting(found) == "beta"
    panels = lines(found, "beta")
    assert list(panels) == [KL]
    beta, capacity = panels[KL]["objective beta"], panels[KL]["objective capacity"]
    assert beta.x.tolist() == [1.0, 4.0] and beta.median.tolist() == [6.0, 1.5]
    assert (beta.low.tolist(), beta.high.tolist()) == ([5.0, 1.25], [7.0, 1.75])
    assert np.isnan(capacity.x).all() and capacity.median.tolist() == [4.0]
    figure = pictures.against_setting("beta", panels)
    (axis,) = [axis for axis in figure.axes if axis.axison]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "4"]
    assert len(axis.lines) == 2


def test_the_setting_with_the_most_values_is_drawn() -> None:
    assert (
        widest_setting(findings([{KL: 1.0}] * 6, lr=[1e-3, 1e-4], beta=[1.0, 2.0, 3.0], seed=[0])) == "beta"
    )
    assert (
        widest_setting(findings([{KL: 1.0}] * 2, deterministic=[True, False], seed=[0])) is None
    )  # no number


def test_a_score_that_is_undefined_has_no_line_and_no_rank() -> None:
    found = findings([{KL: 1.0, "MIG": nan}, {KL: 2.0, "MIG": 0.3}], beta=[1.0, 2.0])
    assert lines(found, "beta")["MIG"]["all runs"].x.tolist() == [2.0]
    assert found.rank(found.results[0], "MIG") is None and found.rank(found.results[1], "MIG") == 1


def test_the_best_run_agrees_most_with_the_others() -> None:
    found = findings([{UDR: udr, KL: kl} for udr, kl in ((0.1, 3.0), (0.3, 2.0), (0.2, 1.0))], seed=[0, 1, 2])
    assert found.best is found.results[1]
    assert found.correlation_with_udr(KL) == -0.5
    assert findings([{UDR: 0.0}] * 2, seed=[0, 1]).best is None


def test_udr_compares_the_runs_of_one_setting() -> None:
    found = findings([{KL: 1.0}] * 4, beta=[1.0, 2.0], seed=[0, 1])
    assert found.peers == [found.results[:2], found.results[2:]]
    single = findings([{KL: 1.0}] * 4, beta=[1.0, 2.0, 3.0, 4.0])
    assert single.peers == [single.results]

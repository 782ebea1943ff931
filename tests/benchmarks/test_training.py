"""The benchmark of training names a promise that does not hold, but not one that was not checked."""

from __future__ import annotations

from math import inf

import pytest

from benchmarks import training
from benchmarks.training import Speed, Training

KEPT = Training("python -m benchmarks.training", "", {}, {}, {})


@pytest.mark.parametrize(
    ("found", "failures"),
    [
        ({}, []),
        ({"same_again": True, "same_resumed": True, "loss": {50: 100.0}, "loss_on_cpu": {50: 101.0}}, []),
        ({"same_again": False}, ["the same command left other weights"]),
        ({"same_resumed": False}, ["a run that was resumed left other weights"]),
        (
            {"loss": {50: 100.0, 100: 150.0}, "loss_on_cpu": {50: 100.0, 100: 90.0}},
            ["the loss at step 100 is 150 nats, on the CPU 90"],
        ),
        (
            {"loss": {50: float("nan")}, "loss_on_cpu": {50: 90.0}},
            ["the loss at step 50 is nan nats, on the CPU 90"],
        ),
    ],
)
def test_a_promise_that_does_not_hold_is_named(found, failures):
    assert Training(**{**vars(KEPT), **found}).failures == [f"training, {failure}" for failure in failures]


def test_the_file_is_read_as_it_was_written(tmp_path):
    results = Training(
        **{**vars(KEPT), "speeds": (Speed(64, 8, 1e4, 200.0, 90.0),), "loss": {2: 1.5, 4: inf}}
    )
    results.save(tmp_path / "train.json")
    assert Training.load(tmp_path / "train.json") == results


def test_runs_that_fail_are_named_and_what_was_found_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(training.sys, "executable", "false")
    out = tmp_path / "train.json"
    assert training.main(["--tiny", "4", "--out", str(out)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED training, ")]
    assert len(failed) == 6 and failed[0] == "FAILED training, 4 steps of 8: exit status 1"
    assert Training.load(out).speeds == () and Training.load(out).same_again is None

"""A schedule that is longer than the run is a warning of one line, with the value that the weight will have reached."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from betavae_fast import cli
from betavae_fast.objectives import LossInputs
from betavae_fast.objectives.options import (
    BetaOptions,
    BetaTCOptions,
    CapacityOptions,
    FreeBitsOptions,
    ObjectiveOptions,
)
from betavae_fast.objectives.registry import build
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.run import train_run
from betavae_fast.training.schedules import learning_rate
from betavae_fast.training.unfinished import schedules, unfinished, warn_of_unfinished


@pytest.mark.parametrize(
    ("options", "steps", "message"),
    [
        (
            CapacityOptions(),
            2500,
            "capacity_steps is 100000, but the run has 2500 steps: C ends at 0.625 nats, not 25",
        ),
        (
            CapacityOptions(9.0, steps=10),
            9,
            "capacity_steps is 10, but the run has 9 steps: C ends at 8.1 nats, not 9",
        ),
        (CapacityOptions(9.0, steps=10), 10, None),
        (CapacityOptions(9.0, steps=0), 1, None),
        (CapacityOptions(0.0, steps=10), 9, None),
        (CapacityOptions(25.0, steps=100_000_000), 99_999_999, None),
        (BetaOptions(0.0, warmup=8), 6, None),
        (BetaOptions(4.0, start=4.0, steps=8), 6, None),
        (BetaOptions(4.0, warmup=8), 6, "beta_warmup is 8, but the run has 6 steps: β ends at 3, not 4"),
        (
            BetaOptions(4.0, warmup=8, cycle=9),
            6,
            "beta_warmup is 8, but the run has 6 steps: β ends at 3, not 4",
        ),
        (BetaOptions(4.0, warmup=8, cycle=9), 12, None),
        (
            BetaOptions(4.0, start=16.0, hold=2, steps=4),
            4,
            "beta_hold + beta_steps is 6, but the run has 4 steps: β ends at 8, not 4",
        ),
        (BetaOptions(4.0, start=16.0, hold=2, steps=4), 6, None),
        (
            BetaTCOptions(start=4.0, steps=4),
            2,
            "weights_hold + weights_steps is 4, but the run has 2 steps: the factor of the weights ends at 2, not 1",
        ),
        (BetaTCOptions(), 1, None),
        (BetaOptions(4.0), 1, None),
        (FreeBitsOptions(), 1, None),
    ],
)
def test_it_says_where_the_weight_ends(options: ObjectiveOptions, steps: int, message: str | None) -> None:
    found = list(unfinished(TrainConfig(objective=options, steps=steps)))
    assert found == ([] if message is None else [message])


def test_each_schedule_of_a_run_is_told() -> None:
    options = BetaTCOptions(start=4.0, hold=4, steps=4, tc_start=16.0, tc_steps=8)
    config = TrainConfig(objective=options, steps=8, lr_schedule="cosine", lr_hold=8, lr_warmup=10)
    tc = "weights_hold + tc_steps is 12, but the run has 8 steps: the further factor of tc_weight ends at 4, not 1"
    assert list(unfinished(config)) == [
        tc,
        "lr_warmup is 10, but the run has 8 steps: the learning rate's factor ends at 0.8, not 1",
        "lr_hold is 8, but the run has 8 steps: the learning rate never falls",
    ]
    assert list(unfinished(replace(config, lr_hold=7, lr_warmup=8))) == [tc]
    assert len(list(unfinished(replace(config, steps=7)))) == 4
    assert list(unfinished(replace(config, steps=12))) == []


@pytest.mark.parametrize("steps", [8, 9])
def test_the_learning_rate_is_as_told(steps: int) -> None:
    last = torch.tensor(steps - 1)
    config = TrainConfig(steps=steps, lr=1.0, lr_warmup=10)
    (told,) = unfinished(config)
    assert told.endswith(f"ends at {float(learning_rate(last, config)):g}, not 1")
    config = TrainConfig(steps=steps, lr=1.0, lr_schedule="cosine", lr_hold=9)
    (told,) = unfinished(config)
    assert told.endswith("never falls") and float(learning_rate(last, config)) == 1.0


@pytest.mark.parametrize(
    "options",
    [
        CapacityOptions(9.0, steps=10),
        BetaOptions(4.0, warmup=8),
        BetaOptions(4.0, start=9.0, hold=2, steps=4),
    ],
)
def test_a_schedule_has_the_values_of_the_objective(options: ObjectiveOptions) -> None:
    (found,), objective, zero = schedules(options), build(options), torch.zeros(1, 1)
    for step in (0, 3, found.steps, found.steps + 5):
        metrics = objective(
            LossInputs(torch.tensor(1.0), zero[0], zero, zero, zero, torch.tensor(step))
        ).metrics
        (logged,) = (metrics[name] for name in ("beta", "capacity") if name in metrics)
        assert found.value(step) == pytest.approx(float(logged), rel=1e-6)


def test_runs_that_share_a_schedule_share_the_warning() -> None:
    configs = [
        TrainConfig(objective=CapacityOptions(c), steps=5, seed=seed) for c in (1.0, 2.0) for seed in (0, 1)
    ]
    with pytest.warns(UserWarning) as found:
        warn_of_unfinished(configs)
    assert [str(one.message).rsplit(" ", 1)[1] for one in found] == ["1", "2"]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.train, "_summarise", lambda *_: None)
    np.save("tiny.npy", np.random.default_rng(0).random((32, 8, 8)) < 0.2)
    return "tiny.npy"


def test_a_run_from_python_warns(tiny: str) -> None:
    config = TrainConfig(
        data=tiny, objective=CapacityOptions(), steps=1, batch_size=8, precision="fp32", threads=1
    )
    with pytest.warns(UserWarning, match="C ends at 0.00025 nats, not 25"):
        train_run(config, "a")


def test_the_command_line_warns_on_one_line(tiny: str, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--data=tiny.npy", "--steps=2", "--batch-size=8", "--precision=fp32", "--objective=capacity"]
    for more, expected in (
        (
            [],
            "betavae-fast: warning: capacity_steps is 100000, but the run has 2 steps: "
            "C ends at 0.0005 nats, not 25\n",
        ),
        (["--capacity-steps=2"], ""),
    ):
        with warnings.catch_warnings(), pytest.raises(SystemExit) as exit_:
            warnings.simplefilter("always", UserWarning)
            cli.main(["train", *options, *more, f"--out=run{len(more)}"])
        assert exit_.value.code == 0 and capfd.readouterr().err == expected

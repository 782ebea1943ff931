"""Each objective from the command line, on a data set of a few bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from betavae_fast import cli
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.log import read_log
from betavae_fast.training.run_folder import RunFolder


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The pictures do not depend on the objective.
    monkeypatch.setattr(cli.train, "_summarise", lambda *_: None)
    np.save("tiny.npy", np.random.default_rng(0).random((32, 8, 8)) < 0.2)


def exit_code(*options: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(
            [
                "train",
                "--data=tiny.npy",
                "--steps=2",
                "--batch-size=8",
                "--latent-dim=2",
                "--out=run",
                "--precision=fp32",
                *options,
            ]
        )
    return exit_.value.code


@pytest.mark.parametrize(
    "options, told, logged",
    [
        ("beta --beta=2 --beta-warmup=1 --beta-cycle=2", {"beta": 2.0, "beta_cycle": 2}, {"beta": 1.0}),
        ("beta --beta=2 --beta-start=8 --beta-steps=2", {"beta_start": 8.0, "beta_steps": 2}, {"beta": 6.0}),
        (
            "capacity --capacity=3 --capacity-steps=1 --capacity-weight=9",
            {"capacity_weight": 9.0},
            {"capacity": 1.5},
        ),
        ("free-bits --free-bits=0.5", {"free_bits": 0.5}, {"charged_kl": 1.0}),
        (
            "lagrangian --kl-limit=3 --multiplier-lr=0.1",
            {"multiplier_lr": 0.1},
            {"slackness": None, "multiplier": None},
        ),
        (
            "geco --reconstruction-limit=30 --constraint-decay=0.9",
            {"constraint_decay": 0.9},
            {"constraint": None, "slackness": None, "multiplier": None},
        ),
        ("beta-per-dim --betas=1,2.5", {"betas": [1.0, 2.5]}, {"weighted_kl": None}),
        (
            "btcvae --tc-weight=4 --mi-weight=0 --dimension-wise-weight=2 --tc-estimator=mws",
            {"mi_weight": 0.0, "tc_estimator": "mws"},
            {"total_correlation": None, "mutual_information": None, "dimension_wise_kl": None},
        ),
        (
            "factorvae --tc-weight=10 --discriminator-lr=1e-3",
            {"discriminator_lr": 1e-3},
            {"total_correlation": None, "discriminator_loss": None, "discriminator_accuracy": None},
        ),
        (
            "dipvae-i --off-diagonal-weight=5 --diagonal-weight=50",
            {"diagonal_weight": 50.0},
            {"off_diagonal": None, "diagonal": None},
        ),
        ("dipvae-ii", {"diagonal_weight": 10.0}, {"off_diagonal": None, "diagonal": None}),
    ],
)
def test_it_trains_and_writes_down_what_it_was_told_and_saw(in_tmp_path, capfd, options, told, logged):
    name, *rest = options.split()
    assert exit_code(f"--objective={name}", *rest) == 0
    captured = capfd.readouterr()
    assert captured.err == "" and f"objective {name}" in captured.out
    folder = RunFolder(Path("run"))
    saved = load_checkpoint(folder.checkpoint)
    assert (saved.step, saved.config.objective.objective) == (2, name)
    assert {option: saved.config.entries()[option] for option in told} == told
    (entry,) = read_log(folder.metrics)
    assert entry.objective.keys() == logged.keys()
    for quantity, value in logged.items():
        assert np.isfinite(entry.objective[quantity])
        assert value is None or entry.objective[quantity] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--objective=gamma"], "gamma"),
        (
            ["--objective=btcvae", "--beta=4"],
            ": --beta is an option of objective beta, not of objective btcvae",
        ),
        (
            ["--tc-weight=4"],
            "--tc-weight is an option of objective btcvae and factorvae, not of objective beta, which has --beta, --",
        ),
        (["--objective=geco"], "objective geco needs --reconstruction-limit"),
        (
            ["--objective=capacity", "--free-bits=1"],
            "--free-bits is an option of objective free-bits, not of objective capacity",
        ),
        (
            ["--objective=beta-per-dim", "--betas=1,x"],
            ": --betas must be numbers with commas between them, got '1,x'",
        ),
        (
            ["--objective=beta-per-dim", "--betas=1"],
            "betas must have one weight for each of 2 latent dims, got 1",
        ),
        (
            ["--objective=free-bits", "--free-bits=-1"],
            "--free-bits must be a finite number of at least 0, got -1.0",
        ),
        (["--beta-cycle=4"], "a cycle of 4 steps needs a warmup of 1 to 4, got 0"),
    ],
)
def test_what_does_not_fit_is_one_line(in_tmp_path, capfd, options, message):
    assert exit_code(*options) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("run").exists()

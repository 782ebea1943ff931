"""A run from Python is the run of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from betavae_fast import cli
from betavae_fast.evaluation import report
from betavae_fast.objectives.options import CapacityOptions
from betavae_fast.training import run as runs
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.loop import train
from betavae_fast.training.trained_run import open_run

CONFIG = TrainConfig(
    data="tiny.npy",
    latent_dim=2,
    steps=4,
    batch_size=8,
    log_every=2,
    device="cpu",
    precision="fp32",
    objective=CapacityOptions(3.0, steps=2),
)


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("tiny.npy", np.random.default_rng(0).random((32, 8, 8)) < 0.2)


def weights(folder: Path) -> list[torch.Tensor]:
    return [tensor for _, tensor in sorted(load_checkpoint(folder / "checkpoint").model.items())]


def test_it_leaves_what_the_command_leaves():
    entries = []
    run = runs.train_run(CONFIG, "mine", on_entry=entries.append)
    summary = report.write_summary(run)
    options = (
        "--data=tiny.npy --latent-dim=2 --steps=4 --batch-size=8 --log-every=2 --precision=fp32 --device=cpu"
    )
    with pytest.raises(SystemExit) as exit_:
        cli.main(
            [
                "train",
                *options.split(),
                "--objective=capacity",
                "--capacity=3",
                "--capacity-steps=2",
                "--out=its",
            ]
        )
    assert exit_.value.code == 0
    mine, its = Path("mine"), Path("its")
    assert {path.name for path in mine.iterdir()} == {path.name for path in its.iterdir()}
    assert all(map(torch.equal, weights(mine), weights(its)))
    assert json.loads((mine / "summary.json").read_text()) == json.loads((its / "summary.json").read_text())
    assert [entry.step for entry in entries] == [entry.step for entry in run.history] == [2, 4]
    assert not run.model.training and run.images() is run.dataset
    assert open_run("mine").config == run.config
    assert summary.images == 32


def test_a_run_goes_on_from_python():
    runs.train_run(CONFIG, "whole")
    with runs.new_run(CONFIG, "parts") as (state, folder):
        train(state, folder, should_stop=lambda: state.step == 1)
    with runs.resumed_run("parts", {"log_every": 3}, out="copy") as (state, folder):
        assert (state.step, state.config.log_every, folder.path) == (1, 3, Path("copy"))
        train(state, folder)
    assert all(map(torch.equal, weights(Path("copy")), weights(Path("whole"))))


def test_a_resumed_run_keeps_its_settings():
    runs.train_run(CONFIG, "run")
    with pytest.raises(
        ValueError, match=r"^a resumed run keeps its own latent_dim, seed; only data, factors, steps"
    ):
        runs.resumed_run("run", {"seed": 1, "latent_dim": 3}).__enter__()


def test_an_open_run_is_closed_to_others():
    with (
        runs.new_run(CONFIG, "run"),
        pytest.raises(BlockingIOError, match="run is in use by another process"),
    ):
        runs.resumed_run("run").__enter__()


def test_one_process_of_several_does_not_train_alone(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=r"^train_run trains in one process"):
        runs.train_run(CONFIG, "run")
    assert not Path("run").exists()

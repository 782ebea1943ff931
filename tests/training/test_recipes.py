"""Each recipe is a configuration that trains, and what is given replaces its values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from betavae_fast import cli
from betavae_fast.data import ByteImages
from betavae_fast.objectives.options import (
    BetaOptions,
    BetaTCOptions,
    CapacityOptions,
    DIPVAEIIOptions,
    FactorVAEOptions,
)
from betavae_fast.sweep.grid import grid
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.recipes import RECIPES, applied, entries
from betavae_fast.training.state import prepare

EVERY_RECIPE = pytest.mark.parametrize("name", RECIPES)
SMALL = {"batch_size": 8, "precision": "fp32", "threads": 1}


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.train, "_summarise", lambda *_: None)  # the pictures do not depend on the recipe
    np.save("tiny.npy", np.random.default_rng(0).random((32, 8, 8)) < 0.2)


def train(*options: str) -> int | str | None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", *options])
    return exit_.value.code


@EVERY_RECIPE
def test_a_recipe_names_the_source_of_every_value(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name and recipe.settings.keys() >= {
        "architecture",
        "objective",
        "batch_size",
        "steps",
        "lr",
    }
    assert recipe.source and recipe.reaches.endswith(".") and recipe.differs.endswith(".")
    assert all(value is not None and source for value, source in recipe.settings.values())


@EVERY_RECIPE
def test_a_configuration_has_the_values_of_its_recipe(name: str) -> None:
    found = TrainConfig.from_recipe(name, seed=3).entries()
    assert found["seed"] == 3
    assert {setting: found[setting] for setting in RECIPES[name].settings} == entries(name)


def test_the_values_are_the_published_ones() -> None:
    burgess, locatello, chen, kim, _ = map(TrainConfig.from_recipe, RECIPES)
    assert burgess == TrainConfig(
        objective=CapacityOptions(25.0, steps=100_000, gamma=1000.0), lr=5e-4, steps=300_000
    )
    common = TrainConfig(architecture="locatello", lr=1e-4, steps=300_000)
    assert locatello == replace(common, initialization="glorot")
    assert chen == TrainConfig(
        architecture="mlp", objective=BetaTCOptions(beta=6.0), batch_size=2048, steps=18_000
    )
    assert kim == replace(common, objective=FactorVAEOptions(gamma=35.0, lr=1e-4))


def test_the_library_s_own_recipe_ends_as_a_beta_vae() -> None:
    config = TrainConfig.from_recipe("dsprites")
    options = config.objective
    assert isinstance(options, BetaTCOptions)
    assert options.alpha == options.beta == options.gamma == 4
    assert (
        options.hold + max(options.steps, options.tc_steps) < config.steps and config.lr_hold < config.steps
    )
    plain = TrainConfig.from_recipe("dsprites", objective=BetaOptions())
    assert (plain.lr, plain.initialization, plain.objective) == (config.lr, "kaiming", BetaOptions(beta=4.0))


@EVERY_RECIPE
def test_a_state_is_prepared(name: str) -> None:
    pixels = torch.zeros(40, 1, 64, 64, dtype=torch.uint8)
    config = TrainConfig.from_recipe(name, **SMALL)
    state = prepare(config, ByteImages("dark", pixels, (1, 64, 64)))
    assert state.model.architecture == config.architecture
    assert state.objective.objective == config.objective.objective
    assert float(state.optimizer.param_groups[0]["lr"]) == config.lr


@EVERY_RECIPE
def test_it_trains_from_the_command_line(
    name: str, in_tmp_path: None, capfd: pytest.CaptureFixture[str]
) -> None:
    options = [f"--recipe={name}", "--data=tiny.npy", "--steps=2", "--batch-size=8", "--precision=fp32"]
    assert train(*options, "--out=run") == 0, capfd.readouterr().err
    saved = load_checkpoint(Path("run/checkpoint"))
    assert saved.step == 2
    told = {"data": str(Path("tiny.npy").resolve()), "steps": 2, "batch_size": 8}
    found = saved.config.entries()
    assert {setting: found[setting] for setting in RECIPES[name].settings} == entries(name) | told


def test_given_values_replace_those_of_the_recipe(in_tmp_path: None) -> None:
    small = ["--data=tiny.npy", "--steps=2", "--batch-size=8", "--precision=fp32"]
    assert train("--recipe=burgess-2018", *small, "--lr=1e-3", "--capacity=9", "--out=a") == 0
    config = load_checkpoint(Path("a/checkpoint")).config
    assert (config.lr, config.objective) == (1e-3, CapacityOptions(9.0, steps=100_000, gamma=1000.0))
    # β-TCVAE and FactorVAE share the option tc_weight: the recipe's value is for its own objective.
    assert train("--recipe=chen-2018", *small, "--objective=factorvae", "--out=b") == 0
    config = load_checkpoint(Path("b/checkpoint")).config
    assert (config.architecture, config.objective) == ("mlp", FactorVAEOptions())


def test_given_settings_in_python_replace_those_of_the_recipe() -> None:
    config = TrainConfig.from_recipe("locatello-2019", objective=DIPVAEIIOptions(), steps=7)
    assert (config.objective, config.steps, config.lr) == (DIPVAEIIOptions(), 7, 1e-4)
    with pytest.raises(ValueError, match=r"^steps must be at least 1, got 0$"):
        TrainConfig.from_recipe("locatello-2019", steps=0)


def test_without_a_recipe_nothing_is_added() -> None:
    assert applied({"lr": 0.5}) == {"lr": 0.5}


def test_the_command_line_names_the_recipes(capfd: pytest.CaptureFixture[str]) -> None:
    assert train("--recipe=burgess") == 2
    captured = capfd.readouterr()
    assert captured.err.count("\n") == 1 and all(name in captured.err for name in RECIPES)
    assert train("--resume=run", "--recipe=burgess-2018") == 2
    assert "--recipe cannot be given with --resume" in capfd.readouterr().err
    assert train("--recipe=locatello-2019", "--capacity=3") == 2
    assert "capacity is an option of objective capacity, not of objective beta" in capfd.readouterr().err


def test_a_recipe_is_for_all_runs_of_a_sweep() -> None:
    runs = grid({"recipe": "locatello-2019", "objective": ["beta", "capacity"], "seed": [0, 1]})
    assert [run.name for run in runs] == [
        f"objective={name},seed={seed}" for name in ("beta", "capacity") for seed in (0, 1)
    ]
    assert {(run.config.architecture, run.config.lr, run.config.steps) for run in runs} == {
        ("locatello", 1e-4, 300_000)
    }
    assert runs[0].config.objective == BetaOptions(4.0) and runs[2].config.objective == CapacityOptions()
    (run,) = grid({"recipe": "burgess-2018", "capacity": [9.0]})
    assert run.config.objective == CapacityOptions(9.0)


def test_an_option_of_a_sweep_s_recipe_is_for_the_recipe_s_objective() -> None:
    btcvae, factorvae = grid({"recipe": "chen-2018", "objective": ["btcvae", "factorvae"]})
    assert (btcvae.config.objective.beta, factorvae.config.objective.gamma) == (6.0, 35.0)
    with pytest.raises(
        ValueError,
        match=r"^recipe must be one of burgess-2018, .*; got 'burgess', did you mean 'burgess-2018'\?$",
    ):
        grid({"recipe": "burgess"})
    with pytest.raises(ValueError, match=r"^recipe must be one of .*; got \['burgess-2018', 'chen-2018'\]$"):
        grid({"recipe": ["burgess-2018", "chen-2018"]})

"""The runs of a sweep, from its settings."""

from __future__ import annotations

import pytest

from betavae_fast.objectives.options import BetaOptions, CapacityOptions
from betavae_fast.sweep.grid import grid


def test_every_combination_is_a_run() -> None:
    runs = grid({"beta": [1.0, 4.0], "lr": [1e-3, 1e-4], "seed": [0, 1], "steps": 7})
    assert len({run.name for run in runs}) == 8
    assert runs[1].name == "beta=1,lr=0.001,seed=1"
    assert runs[1].setting == {"beta": 1.0, "lr": 1e-3} and runs[1].config.seed == 1
    assert all(run.config.steps == 7 for run in runs)
    assert runs[-1].config.objective == BetaOptions(4.0) and runs[-1].config.lr == 1e-4


def test_an_option_varies_for_the_objectives_that_have_it() -> None:
    runs = grid({"objective": ["beta", "capacity"], "beta": [1.0, 2.0], "capacity": 9.0})
    assert [run.name for run in runs] == [
        "objective=beta,beta=1,seed=0",
        "objective=beta,beta=2,seed=0",
        "objective=capacity,seed=0",
    ]
    assert runs[2].config.objective == CapacityOptions(9.0)
    assert runs[2].setting == {"objective": "capacity"}


def test_a_single_setting_is_a_sweep_over_seeds() -> None:
    runs = grid({"seed": [3, 5]})
    assert [run.name for run in runs] == ["seed=3", "seed=5"] and runs[0].setting == {}


def test_a_setting_that_is_a_list_is_one_value() -> None:
    (run,) = grid({"objective": ["beta-per-dim"], "betas": [1.0, 2.0], "latent_dim": 2})
    assert run.config.objective.betas == [1.0, 2.0]
    runs = grid({"objective": ["beta-per-dim"], "betas": [[1.0, 2.0], [3.0, 4.0]], "latent_dim": 2})
    assert [run.config.objective.betas for run in runs] == [[1.0, 2.0], [3.0, 4.0]]
    assert len({run.name for run in runs}) == 2


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"betta": [1.0]}, "a sweep has no setting 'betta'"),
        ({"objective": ["beta", "gan"]}, "objective must be one of .*, got 'gan'|; got 'gan'"),
        ({"tc_weight": [2.0]}, "tc_weight is an option of objective btcvae and factorvae"),
        ({"beta": [1.0, 1.0]}, "beta has the value 1.0 twice"),
        ({"seed": []}, "seed has no values"),
        ({"beta": [1.0, -1.0]}, "beta must be a finite number of at least 0, got -1.0"),
        ({"batch_size": ["auto", 64]}, "a sweep needs batch_size as a number"),
        ({"data": ["a/x.npy", "b/x.npy"]}, "two runs of the sweep would share the folder data=x,seed=0"),
    ],
)
def test_what_makes_no_grid_is_named(entries: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(entries)

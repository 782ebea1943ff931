"""The settings of a sweep, from its command line and its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from betavae_fast.cli.sweep import _entries
from betavae_fast.sweep.grid import grid


def entries(tmp_path: Path, text: str | None = None, **given: str) -> dict:
    file = None
    if text is not None:
        file = tmp_path / "sweep.toml"
        file.write_text(text, encoding="utf-8")
    return _entries({"file": file, "seeds": None, "seed": None} | given)


def test_a_file_says_what_the_command_line_says(tmp_path: Path) -> None:
    text = 'beta = [1, 4.5]\nlatent-dim = 4\ndeterministic = [true, false]\nobjective = "beta"\nseed = [0, 1]'
    given = {
        "beta": "1,4.5",
        "latent_dim": "4",
        "deterministic": "true,false",
        "objective": "beta",
        "seed": "0,1",
    }
    one, two = grid(entries(tmp_path, text)), grid(entries(tmp_path, **given))
    assert [(run.name, run.config) for run in one] == [(run.name, run.config) for run in two]
    assert len(one) == 8 and all(isinstance(run.config.objective.beta, float) for run in one)


def test_a_recipe_stands_in_the_file_or_on_the_command_line(tmp_path: Path) -> None:
    text = 'recipe = "burgess-2018"\ncapacity = [10, 25]'
    one = grid(entries(tmp_path, text))
    two = grid(entries(tmp_path, recipe="burgess-2018", capacity="10,25"))
    assert [(run.name, run.config) for run in one] == [(run.name, run.config) for run in two]
    assert [run.config.objective.capacity for run in one] == [10.0, 25.0] and one[0].config.lr == 5e-4


def test_a_list_valued_setting_is_one_value_or_a_list_of_them(tmp_path: Path) -> None:
    once = entries(tmp_path, 'objective = "beta-per-dim"\nbetas = [1, 2]\nlatent-dim = 2')
    assert once["betas"] == [1.0, 2.0]
    twice = entries(tmp_path, 'objective = "beta-per-dim"\nbetas = [[1, 2], [3, 4]]\nlatent-dim = 2')
    assert twice["betas"] == [[1.0, 2.0], [3.0, 4.0]]
    assert entries(tmp_path, betas="1,2")["betas"] == [1.0, 2.0]


def test_the_command_line_replaces_entries_of_the_file(tmp_path: Path) -> None:
    assert entries(tmp_path, "beta = [1, 2]\nsteps = 5", beta="7")["beta"] == [7.0]


def test_a_part_of_a_files_objectives_leaves_the_options_of_the_others(tmp_path: Path) -> None:
    """The command that disentanglement.toml names."""
    study = (Path(__file__).resolve().parents[2] / "benchmarks" / "disentanglement.toml").read_text()
    runs = grid(entries(tmp_path, study, objective="beta", beta="4"))
    assert [run.name for run in runs] == [f"seed={seed}" for seed in range(5)]
    assert grid(entries(tmp_path, study, objective="capacity"))[0].config.objective.steps == 3000
    with pytest.raises(ValueError, match="capacity is an option of objective capacity"):
        grid(entries(tmp_path, study, objective="beta", capacity="5"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('beta = "high"', "beta must be a number, got 'high'"),
        ("steps = 1.5", "steps must be a whole number, got '1.5'"),
        ("deterministic = 1", "deterministic must be true or false, got '1'"),
        ("beta = ", r"sweep.toml: not a TOML file \("),
        ("threads = [1, 2]", "threads has one value for the whole sweep, got 2"),
        ("device = []", "device has one value for the whole sweep, got 0"),
        ('recipe = ["burgess-2018", "chen-2018"]', "recipe has one value for the whole sweep, got 2"),
    ],
)
def test_what_a_file_cannot_say_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entries(tmp_path, text)


def test_seeds_are_their_number_or_their_values(tmp_path: Path) -> None:
    assert entries(tmp_path, seeds=3)["seed"] == [0, 1, 2]
    with pytest.raises(ValueError, match="give --seeds, the number of seeds, or --seed, their values"):
        entries(tmp_path, seeds=3, seed="1")

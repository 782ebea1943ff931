"""Runs do not overwrite each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from betavae_fast.objectives.options import BetaOptions
from betavae_fast.training.checked_json import RunFileError
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.run_folder import RunFolder, check_run, create_run_folder


def test_a_folder_without_a_name_gets_the_first_free_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(data="some/where/faces.npy", architecture="mlp")
    names = [str(create_run_folder(config).path) for _ in range(3)]
    assert names == ["runs/faces-mlp", "runs/faces-mlp-2", "runs/faces-mlp-3"]


def test_the_configuration_is_written_down(tmp_path):
    config = TrainConfig(objective=BetaOptions(7.5))
    folder = create_run_folder(config, tmp_path / "run")
    assert TrainConfig.from_entries(json.loads(folder.config.read_text())["config"]) == config


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    create_run_folder(TrainConfig(), tmp_path / "run")  # an empty folder is accepted
    with pytest.raises(FileExistsError, match="run already exists"):
        create_run_folder(TrainConfig(), tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file already exists"):
        create_run_folder(TrainConfig(), tmp_path / "file")


def test_of_many_runs_in_a_folder_three_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(5):
        create_run_folder(TrainConfig()).metrics.touch()
    with pytest.raises(RunFileError, match=r"runs has dsprites-burgess, \S+-2, \S+-3 and 2 more$"):
        check_run(RunFolder(Path("runs")))

"""Runs do not overwrite each other."""

from __future__ import annotations

import json

import pytest

from betavae_fast.objectives.options import BetaOptions
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.run_folder import create_run_folder


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

"""Published weights become runs, each with its objective."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import published
from betavae_fast.training.trained_run import open_run
from tests.integrations.test_disentangling_vae import saved, theirs


def test_each_model_becomes_a_run_with_its_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((6, 64, 64)) < 0.2)
    monkeypatch.setattr(published, "to_run", partial(published.to_run, data=str(tmp_path / "images.npy")))
    for name in published.MODELS:
        folder = tmp_path / "clone" / "results" / f"{name}_dsprites"
        folder.mkdir(parents=True)
        saved(theirs().state_dict(), folder / "model.pt")
    assert published.main([str(tmp_path / "clone"), str(tmp_path / "runs")]) == 0
    for name, objective in published.MODELS.items():
        run = open_run(tmp_path / "runs" / name, "cpu")
        assert run.config.objective == objective and run.step == 0
    state = torch.load(tmp_path / "clone" / "results" / "betaB_dsprites" / "model.pt", weights_only=True)
    weights = open_run(tmp_path / "runs" / "betaB", "cpu").model.state_dict()["encoder.conv1.weight"]
    assert torch.equal(weights, state["encoder.conv1.weight"])


def test_a_folder_that_is_no_clone_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"VAE_dsprites/model\.pt"):
        published.main([str(tmp_path), str(tmp_path / "runs")])

"""A checkpoint on disk is the old one or the new one; anything else is refused."""

from __future__ import annotations

import os

import pytest
import torch

from betavae_fast.data import DataIdentity
from betavae_fast.nn import BetaVAE
from betavae_fast.objectives import Beta
from betavae_fast.training.checked_json import RunFileError, read_checked, write_checked
from betavae_fast.training.checkpoint import NotFiniteError, copy_model, load_checkpoint, save_checkpoint
from betavae_fast.training.config import TrainConfig

CONFIG = TrainConfig(data="tiny", latent_dim=2, likelihood="laplace", lr=1e-2)


@pytest.fixture
def model_and_optimizer():
    torch.manual_seed(0)
    model = BetaVAE((1, 8, 8), latent_dim=2, likelihood="laplace", logvar_range=(-5.0, 5.0))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    take_step(model, optimizer)
    return model, optimizer


def take_step(model, optimizer):
    optimizer.zero_grad()
    model(torch.rand(4, 1, 8, 8)).decoded.square().mean().backward()
    optimizer.step()


def test_what_is_read_is_what_was_written(model_and_optimizer, tmp_path):
    model, optimizer = model_and_optimizer
    save_checkpoint(tmp_path / "checkpoint", 12, CONFIG, model, optimizer, Beta())
    saved = load_checkpoint(tmp_path / "checkpoint")

    assert (saved.step, saved.config) == (12, CONFIG)
    assert saved.model.keys() == model.state_dict().keys()
    assert all(torch.equal(saved.model[name], tensor) for name, tensor in model.state_dict().items())
    for name, parameter in model.named_parameters():
        for quantity, tensor in optimizer.state[parameter].items():
            assert torch.equal(saved.optimizer[f"{name}.{quantity}"], tensor)

    rebuilt = saved.build_model()
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(rebuilt(images), model.eval()(images))
    assert rebuilt.likelihood == "laplace"
    assert not rebuilt.training


def test_only_the_latest_stays(model_and_optimizer, tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, CONFIG, *model_and_optimizer, Beta())
    # A file left by a writer that was killed, and a file of the user.
    (tmp_path / ".model-00000001-1f0c93ab.safetensors.0123456789abcdef.tmp").touch()
    (tmp_path / "exported.safetensors").touch()
    save_checkpoint(tmp_path, 3, CONFIG, *model_and_optimizer, Beta())
    names = [path.name.split("-")[:2] for path in sorted(tmp_path.iterdir())]
    assert names == [
        ["exported.safetensors"],
        ["latest.json"],
        ["model", "00000003"],
        ["optimizer", "00000003"],
    ]


@pytest.mark.parametrize("fails_at", range(6))
def test_a_death_at_any_moment_of_writing_leaves_a_whole_checkpoint(
    model_and_optimizer, tmp_path, monkeypatch, fails_at
):
    model, optimizer = model_and_optimizer
    save_checkpoint(tmp_path, 1, CONFIG, model, optimizer, Beta())
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_step(model, optimizer)

    calls = 0

    def die(function):
        def wrapper(*arguments, **keywords):
            nonlocal calls
            calls += 1
            if calls > fails_at:
                raise KeyboardInterrupt  # not an Exception, so nothing is cleaned up
            return function(*arguments, **keywords)

        return wrapper

    # Three files are each synced and then renamed. A kill at any of these six moments must do no harm.
    monkeypatch.setattr(os, "replace", die(os.replace))
    monkeypatch.setattr(os, "fsync", die(os.fsync))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, CONFIG, model, optimizer, Beta())
    monkeypatch.undo()

    saved = load_checkpoint(tmp_path)
    expected = {1: old, 2: model.state_dict()}[saved.step]
    assert all(torch.equal(saved.model[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", ["model", "optimizer"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_named(model_and_optimizer, tmp_path, kind, damage):
    save_checkpoint(tmp_path, 3, CONFIG, *model_and_optimizer, Beta())
    (path,) = tmp_path.glob(f"{kind}-00000003-*.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:100])
    else:
        path.unlink()
    with pytest.raises(RunFileError, match=path.name):
        load_checkpoint(tmp_path)


def test_no_checkpoint_is_named(tmp_path):
    with pytest.raises(RunFileError, match="no such file"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_checkpoint_of_the_first_format_is_read(model_and_optimizer, tmp_path):
    """The first format does not record the identity of the data."""
    save_checkpoint(tmp_path, 3, CONFIG, *model_and_optimizer, Beta(), DataIdentity(7, (1, 8, 8), "0123"))
    assert load_checkpoint(tmp_path).data == DataIdentity(7, (1, 8, 8), "0123")
    index = read_checked(tmp_path / "latest.json")
    del index["data"]
    write_checked(tmp_path / "latest.json", {**index, "format": 1})
    assert load_checkpoint(tmp_path).data is None
    write_checked(tmp_path / "latest.json", {**index, "format": 3})
    with pytest.raises(RunFileError, match="format 3, this version reads formats 1 and 2"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("where", ["weight", "moment"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_saved(model_and_optimizer, tmp_path, where, value):
    model, optimizer = model_and_optimizer
    save_checkpoint(tmp_path, 3, CONFIG, model, optimizer, Beta())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    parameter = model.decoder.fc1.bias
    (parameter.data if where == "weight" else optimizer.state[parameter]["exp_avg_sq"])[2] = value
    with pytest.raises(NotFiniteError, match=r"decoder\.fc1\.bias.* is not finite"):
        save_checkpoint(tmp_path, 4, CONFIG, model, optimizer, Beta())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_copied_model_has_no_state_of_training(model_and_optimizer, tmp_path):
    model, optimizer = model_and_optimizer
    save_checkpoint(tmp_path / "run", 3, CONFIG, model, optimizer, Beta())
    copy_model(tmp_path / "run", tmp_path / "copy")
    saved = load_checkpoint(tmp_path / "copy")
    assert (saved.step, saved.config, saved.optimizer, saved.objective) == (3, CONFIG, {}, {})
    assert all(torch.equal(saved.model[name], tensor) for name, tensor in model.state_dict().items())
    assert {path.name.split("-")[0] for path in (tmp_path / "copy").iterdir()} == {"model", "latest.json"}
    with pytest.raises(RunFileError, match="published model without its optimizer"):
        saved.restore(model, optimizer, Beta())


def test_a_damaged_checkpoint_is_not_copied(model_and_optimizer, tmp_path):
    save_checkpoint(tmp_path / "run", 3, CONFIG, *model_and_optimizer, Beta())
    next((tmp_path / "run").glob("optimizer-*")).unlink()
    with pytest.raises(RunFileError, match="optimizer-"):
        copy_model(tmp_path / "run", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()

"""Weights of disentangling-vae: the model computes what their network computes, and its run is evaluated and trained on.

Their network is written down here in plain torch, from disvae/models/ at f045219.
"""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from betavae_fast import cli
from betavae_fast.evaluation.summary import choose_images
from betavae_fast.integrations.disentangling_vae import load_disentangling_vae, to_run
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import read_log
from betavae_fast.training.trained_run import open_run


class TheirEncoder(nn.Module):
    def __init__(self, channels: int, side: int, latent_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 4, 2, 1)
        self.conv2 = nn.Conv2d(32, 32, 4, 2, 1)
        self.conv3 = nn.Conv2d(32, 32, 4, 2, 1)
        if side == 64:
            self.conv_64 = nn.Conv2d(32, 32, 4, 2, 1)
        self.lin1, self.lin2 = nn.Linear(512, 256), nn.Linear(256, 256)
        self.mu_logvar_gen = nn.Linear(256, 2 * latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        convolutions = [layer for layer in self.children() if isinstance(layer, nn.Conv2d)]
        for layer in convolutions:
            x = layer(x).relu()
        x = self.lin2(self.lin1(x.flatten(1)).relu()).relu()
        pairs = self.mu_logvar_gen(x).unflatten(
            1, (-1, 2)
        )  # mean and log-variance of each latent dim in turn
        return pairs[..., 0], pairs[..., 1]


class TheirDecoder(nn.Module):
    def __init__(self, channels: int, side: int, latent_dim: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(latent_dim, 256), nn.Linear(256, 256)
        self.lin3 = nn.Linear(256, 512)
        if side == 64:
            self.convT_64 = nn.ConvTranspose2d(32, 32, 4, 2, 1)
        self.convT1 = nn.ConvTranspose2d(32, 32, 4, 2, 1)
        self.convT2 = nn.ConvTranspose2d(32, 32, 4, 2, 1)
        self.convT3 = nn.ConvTranspose2d(32, channels, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.lin3(self.lin2(self.lin1(z).relu()).relu()).relu().unflatten(1, (32, 4, 4))
        *hidden, last = (layer for layer in self.children() if isinstance(layer, nn.ConvTranspose2d))
        for layer in hidden:
            x = layer(x).relu()
        return last(x).sigmoid()


class TheirVAE(nn.Module):
    def __init__(self, channels: int = 1, side: int = 64, latent_dim: int = 10) -> None:
        super().__init__()
        self.encoder = TheirEncoder(channels, side, latent_dim)
        self.decoder = TheirDecoder(channels, side, latent_dim)


def theirs(channels: int = 1, side: int = 64, latent_dim: int = 10) -> TheirVAE:
    torch.manual_seed(0)
    return TheirVAE(channels, side, latent_dim)


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("channels", "side", "latent_dim"), [(1, 64, 10), (3, 64, 10), (1, 32, 10), (1, 32, 3)]
)
@torch.no_grad()
def test_the_model_is_theirs(tmp_path: Path, channels: int, side: int, latent_dim: int) -> None:
    expected = theirs(channels, side, latent_dim)
    model = load_disentangling_vae(saved(expected.state_dict(), tmp_path / "model.pt"))
    assert (model.image_shape, model.latent_dim) == ((channels, side, side), latent_dim)
    assert not model.training
    images, z = noise(5, channels, side, side), 4 * noise(5, latent_dim) - 2
    for found, moment in zip(model.encode(images), expected.encoder(images), strict=True):
        torch.testing.assert_close(found, moment)
    torch.testing.assert_close(model.pixels(model.decode(z)), expected.decoder(z))


def test_loading_draws_no_random_number(tmp_path: Path) -> None:
    path = saved(theirs().state_dict(), tmp_path / "model.pt")
    before = torch.random.get_rng_state()
    load_disentangling_vae(path)
    assert torch.equal(before, torch.random.get_rng_state())


def changed(name: str, tensor: Tensor | None) -> OrderedDict[str, Tensor]:
    """Their state with another tensor for ``name``, or without it."""
    state = theirs().state_dict()
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1, 2], "not the state of a model, but list"),
        ({"state_dict": {}}, r"not the state of a model \('state_dict' is dict\)"),
        ({}, r"not weights of disentangling-vae \(it has no tensor 'decoder.convT1.bias'\)"),
        (changed("decoder.convT2.bias", None), r"\(it has no tensor 'decoder.convT2.bias'\)"),
        (changed("encoder.bn1.weight", torch.ones(32)), "it has an unknown tensor 'encoder.bn1.weight'"),
        (theirs().state_dict() | {1: torch.ones(1), "a": torch.ones(1)}, "it has an unknown tensor '1'"),
        (
            theirs(side=32).state_dict() | {"decoder.convT_64.bias": torch.ones(32)},
            "it has an unknown tensor 'decoder.convT_64.bias'",
        ),
        (changed("encoder.mu_logvar_gen.bias", torch.ones(())), r"encoder.moments.bias is .* of shape \(\)"),
        (
            changed("decoder.lin2.weight", torch.ones(256, 128)),
            r"decoder.fc2.weight is torch.float32 of shape \(256, 128\), expected torch.float32 of shape \(256, 256\)",
        ),
        (changed("encoder.lin1.bias", torch.ones(256).double()), "encoder.fc1.bias is torch.float64"),
        (
            changed("encoder.mu_logvar_gen.bias", torch.ones(21)),
            r"encoder.moments.bias is .* of shape \(21,\)",
        ),
        (changed("encoder.conv1.weight", torch.ones(())), "not weights of disentangling-vae"),
        (
            changed("encoder.lin1.bias", torch.full((256,), torch.nan)),
            "encoder.fc1.bias does not hold finite",
        ),
        (changed("encoder.lin1.bias", torch.ones(256).to_sparse()), "encoder.fc1.bias does not hold finite"),
        (
            changed("encoder.lin1.bias", torch.ones(256, device="meta")),
            "encoder.fc1.bias does not hold finite",
        ),
        (
            theirs(),
            r"not a file that holds only weights \(UnpicklingError\)$",
        ),  # a module, which could run any code
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_file_is_named_on_one_line(tmp_path: Path, state: object, message: str) -> None:
    path = saved(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message) as error:
        load_disentangling_vae(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"not weights", pickle.dumps({"a": 1}, protocol=2), b"PK\x03\x04 a cut archive"]
)
def test_a_file_without_weights_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"not (a file that holds only weights|the state of a model)"
    ) as error:
        load_disentangling_vae(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        load_disentangling_vae(tmp_path / "none.pt")


def test_a_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises((IsADirectoryError, PermissionError)):  # the latter on Windows
        load_disentangling_vae(tmp_path)


def test_tensors_that_share_memory_are_told_apart(tmp_path: Path) -> None:
    state, ones = theirs(side=32).state_dict(), torch.ones(1).expand(256)
    model = load_disentangling_vae(
        saved(state | {"encoder.lin1.bias": ones, "decoder.lin1.bias": ones}, tmp_path / "model.pt")
    )
    with torch.no_grad():
        model.encoder.fc1.bias[0] = 5
    assert model.encoder.fc1.bias.tolist() == [5.0] + [1.0] * 255
    assert model.decoder.fc1.bias.tolist() == [1.0] * 256


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.npy"
    np.save(path, np.random.default_rng(0).random((48, 32, 32)) < 0.2)
    return path


def command(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    return exit_.value.code


def test_its_run_is_evaluated_and_trained_on(tmp_path: Path, images: Path) -> None:
    model = load_disentangling_vae(saved(theirs(side=32).state_dict(), tmp_path / "model.pt"))
    folder = to_run(model, tmp_path / "run", images, threads=1, lr=5e-4)
    opened = open_run(folder.path)
    assert (opened.step, opened.precision, opened.trained_on) == (0, torch.float32, None)
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.model.state_dict()[name], tensor), name
    (entry,) = read_log(folder.metrics)
    with torch.no_grad():
        pixels = torch.from_numpy(np.load(images))[:, None]
        mu, logvar = model.encode(pixels)
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean(0)
    np.testing.assert_allclose(entry.kl_per_dim, kl, rtol=1e-3)
    assert entry.loss == pytest.approx(entry.reconstruction + entry.kl)
    with torch.no_grad():
        order = choose_images(48, 48)  # the noise of a row depends on its place in the batch
        decoded = model.train()(pixels[order], seed=0).decoded
    expected = F.binary_cross_entropy_with_logits(decoded, pixels[order].float(), reduction="sum") / 48
    assert entry.reconstruction == pytest.approx(float(expected), rel=1e-5)
    options = ["--metrics=unsupervised", "--device=cpu", "--jobs=1"]
    assert command("evaluate", str(folder.path), *options) == 0
    assert json.loads(folder.evaluation.read_text())["step"] == 0
    assert command("train", "--resume", str(folder.path), "--steps=2", "--log-every=1", "--device=cpu") == 0
    assert [entry.step for entry in read_log(folder.metrics)] == [0, 1, 2]
    saved_after = load_checkpoint(folder.checkpoint)
    assert saved_after.config.lr == 5e-4 and float(saved_after.optimizer["encoder.fc1.bias.step"]) == 2


def test_a_run_needs_images_of_the_model_s_shape(tmp_path: Path, images: Path) -> None:
    model = load_disentangling_vae(saved(theirs().state_dict(), tmp_path / "model.pt"))
    with pytest.raises(
        ValueError, match=r"the model takes images of shape \(1, 64, 64\), but .* has \(1, 32, 32\)"
    ):
        to_run(model, tmp_path / "run", images)
    assert not (tmp_path / "run").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    small = load_disentangling_vae(saved(theirs(side=32).state_dict(), tmp_path / "small.pt"))
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        to_run(small, tmp_path / "full", images)


def test_settings_are_those_of_the_steps_to_come(tmp_path: Path, images: Path) -> None:
    model = load_disentangling_vae(saved(theirs(side=32).state_dict(), tmp_path / "model.pt"))
    found = open_run(to_run(model, tmp_path / "run", images, seed=7).path).config
    assert found == TrainConfig(data=str(images), seed=7, precision="fp32", batch_size=48)

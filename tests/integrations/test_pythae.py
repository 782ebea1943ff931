"""Our model beside pythae's: the same numbers for the same noise, and training by pythae's Trainer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("pythae", reason="pythae is not installed")

from pythae.data.datasets import BaseDataset
from pythae.models import AutoModel, BetaVAE, BetaVAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseEncoder
from pythae.samplers import NormalSampler
from pythae.trainers import BaseTrainer, BaseTrainerConfig

from betavae_fast import BetaVAELoss
from betavae_fast.integrations.pythae import FusedBetaVAE


def config(loss: str = "bce", beta: float = 4.0) -> BetaVAEConfig:
    return BetaVAEConfig(input_dim=(1, 6, 6), latent_dim=3, reconstruction_loss=loss, beta=beta)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(64, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_outputs_and_gradients_are_pythae_s(loss: str, dtype: torch.dtype, images: Tensor) -> None:
    torch.manual_seed(0)
    plain = BetaVAE(config(loss), None, None).to(dtype)
    fused = FusedBetaVAE(config(loss), None, None).to(dtype)
    fused.load_state_dict(plain.state_dict())
    noise = torch.randn(64, 3, dtype=dtype)
    plain._sample_gauss = lambda mu, std: (mu + noise * std, noise)
    inputs = {"data": images.to(dtype)}
    outputs = plain(inputs), fused(inputs, noise=noise)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    assert outputs[0].keys() == outputs[1].keys()
    for name, expected in outputs[0].items():
        torch.testing.assert_close(outputs[1][name], expected, **tolerance)
    for output in outputs:
        output.loss.backward()
    for (name, a), b in zip(fused.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, **tolerance, msg=lambda m, name=name: f"{name}: {m}")


def test_their_mse_is_our_gaussian_without_its_constant(images: Tensor) -> None:
    decoded, kl = torch.rand_like(images), torch.rand(3)
    model = FusedBetaVAE(config("mse"), None, None)
    ours = BetaVAELoss(1.0, "gaussian")(decoded, images, kl).reconstruction
    constant = 36 * 0.5 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(model._reconstruction_loss(decoded, images), ours - constant)


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_inputs_of_another_range_are_named(loss: str, images: Tensor) -> None:
    model = FusedBetaVAE(config(loss), None, None)
    inputs = {"data": 255 * images.round()}
    if loss == "mse":
        # Their model accepts the targets silently.
        assert type(BetaVAE(config(loss), None, None)(inputs).loss) is Tensor
        with pytest.warns(UserWarning, match="FusedBetaVAE: targets from 0 to 255 for a density of width 1"):
            model(inputs)
        with pytest.raises(ValueError, match="FusedBetaVAE: targets must be finite, got NaN"):
            model({"data": images.log().log()})
    else:
        with pytest.raises(ValueError, match=r"FusedBetaVAE: targets must lie in \[0, 1\], got 0 to 255"):
            copy.deepcopy(model)(inputs)


def test_their_kl_cancels_and_ours_does_not() -> None:
    class Unused(BaseEncoder):
        """An encoder for channels that are hardly used: log σ² is the value of the pixels."""

        def forward(self, x: Tensor) -> Any:
            logvar = x.flatten(1)[:, :3]
            return ModelOutput(embedding=0 * logvar, log_covariance=logvar)

    logvar = torch.linspace(1e-4, 1e-3, 200)
    images = logvar.view(-1, 1, 1, 1, 1).expand(200, 1, 1, 6, 6)
    exact = 1.5 * (logvar.double().expm1() - logvar.double())
    off = {
        kind: (torch.stack([model({"data": x}).reg_loss for x in images]) / exact - 1).abs().max()
        for kind in (BetaVAE, FusedBetaVAE)
        for model in (kind(config("mse"), Unused(), None),)
    }
    assert off[BetaVAE] >= 1 and off[FusedBetaVAE] < 1e-6  # Theirs loses all digits, ours none.


def test_it_trains_with_their_trainer(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FusedBetaVAE(config(beta=0.1), None, None)
    before = copy.deepcopy(model)
    pixels = (images > 0.5).float()
    data = {"data": pixels}
    training = BaseTrainerConfig(
        output_dir=str(tmp_path),
        num_epochs=15,
        learning_rate=1e-2,
        per_device_train_batch_size=32,
        no_cuda=True,
    )
    trainer = BaseTrainer(model, train_dataset=BaseDataset(pixels, torch.zeros(64)), training_config=training)
    trainer.train()
    assert model(data).loss < 0.9 * before(data).loss
    model.save(str(tmp_path / "saved"))
    again = FusedBetaVAE.load_from_folder(str(tmp_path / "saved"))
    noise = torch.randn(64, 3)
    torch.testing.assert_close(again(data, noise=noise).loss, model(data, noise=noise).loss)
    # pythae recognises the model by its configuration, so a model loaded without naming the class is pythae's own.
    assert type(AutoModel.load_from_folder(str(tmp_path / "saved"))) is BetaVAE
    assert NormalSampler(again).sample(num_samples=2).shape == (2, 1, 6, 6)

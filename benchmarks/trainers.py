"""The contenders of the step benchmark: several implementations that train the Burgess network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from betavae_fast.choices import Precision
from betavae_fast.data.dsprites import rendered_dsprites
from betavae_fast.data.images import BinaryImages
from betavae_fast.noise import make_rng, normals
from betavae_fast.objectives.options import BetaOptions
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.graph import graphed, side_stream
from betavae_fast.training.loop import TrainState, prepare
from betavae_fast.training.process import keep_freed_memory
from betavae_fast.training.step import TrainStep

IMAGES = 16384  # every 45th image of the data set; as float32 they take 268 MB
LATENT_DIM, BETA, LR, SEED = 10, 4.0, 1e-3, 0


class Trainer(Protocol):
    """A model, its optimizer and its data, ready for steps."""

    def loss_of_step(self, number: int) -> float:
        """Take step ``number`` of the run that all contenders share; return its loss in nats."""

    def step(self) -> object:
        """Take a step in the usual way, with its own noise."""


def shared_run(batch_size: int, device: str, precision: Precision = "fp32") -> TrainState:
    """The weights, the batches and the seed that all contenders start from."""
    dataset = rendered_dsprites(progress=False)
    store = dataset.store[:: len(dataset) // IMAGES][:IMAGES].clone()
    config = TrainConfig(
        latent_dim=LATENT_DIM,
        objective=BetaOptions(BETA),
        lr=LR,
        seed=SEED,
        batch_size=batch_size,
        device=device,
        precision=precision,
        steps=10**6,
    )
    return prepare(config, BinaryImages("sprites", store, dataset.image_shape))


class Ours:
    """Our trainer's step, which is one CUDA graph on a GPU."""

    def __init__(self, batch_size: int, device: str, precision: Precision = "fp32") -> None:
        self._state = shared_run(batch_size, device, precision)
        self._state.model.train()
        # The stream is held until the process ends.
        self._held = ExitStack()
        self._held.enter_context(side_stream(self._state.device))
        self._step = TrainStep(self._state, self._state.model)
        self._launch = graphed(self._step, self._state.device)

    def loss_of_step(self, number: int) -> float:
        self.step()
        return float(self._step.means.read(1)["loss"])

    def step(self) -> None:
        self._load_order(self._state.step)
        self._launch()
        self._state.step += 1

    def _load_order(self, number: int) -> None:
        if number % self._state.batches.per_epoch == 0:
            self._step.load_order(number // self._state.batches.per_epoch)


class Eager:
    """The network and the loss as in tutorials: NCHW, float targets, plain operations, Adam."""

    def __init__(self, batch_size: int, device: str) -> None:
        run = shared_run(batch_size, device)
        self._batches = run.batches
        self._data = run.dataset.gather(torch.arange(IMAGES, device=device)).float()
        self.encoder, self.decoder = _encoder().to(device), _decoder().to(device)
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        with torch.no_grad():
            for mine, shared in zip(parameters, run.model.parameters(), strict=True):
                mine.copy_(shared)
        self._optimizer = torch.optim.Adam(parameters, lr=LR)
        self._steps = 0

    def loss(self, x: Tensor, noise: Tensor | None) -> Tensor:
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        eps = torch.randn_like(mu) if noise is None else noise
        z = mu + torch.exp(0.5 * logvar) * eps
        logits = self.decoder(z)
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return (reconstruction + BETA * kl) / len(x)

    def loss_of_step(self, number: int) -> float:
        batch_size, per_epoch = self._batches.batch_size, self._batches.per_epoch
        indices = self._batches.epoch(number // per_epoch)[number % per_epoch]
        rng = make_rng(self._data.device, seed=torch.tensor([SEED, number], device=self._data.device))
        noise = normals(rng, 0, batch_size * LATENT_DIM).view(batch_size, LATENT_DIM)
        return float(self._update(indices.to(self._data.device), noise))

    def step(self) -> Tensor:
        if self._steps % self._batches.per_epoch == 0:
            order = torch.randperm(IMAGES, device=self._data.device)
            self._epoch = order[: self._batches.per_epoch * self._batches.batch_size].split(
                self._batches.batch_size
            )
        indices = self._epoch[self._steps % self._batches.per_epoch]
        self._steps += 1
        return self._update(indices, None)

    def _update(self, indices: Tensor, noise: Tensor | None) -> Tensor:
        loss = self.loss(self._data[indices], noise)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()


class Compiled(Eager):
    """Eager's loss through torch.compile."""

    def __init__(self, batch_size: int, device: str, mode: str | None = None) -> None:
        super().__init__(batch_size, device)
        self.loss = torch.compile(self.loss, mode=mode)  # type: ignore[method-assign]


class Pythae(Eager):
    """pythae's BetaVAE with eager's encoder and decoder; its loss takes probabilities."""

    def __init__(self, batch_size: int, device: str) -> None:
        super().__init__(batch_size, device)
        from pythae.models import BetaVAE, BetaVAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder

        plain = self

        class Encoder(BaseEncoder):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.layers = plain.encoder

            def forward(self, x: Tensor) -> Any:
                mu, logvar = self.layers(x).chunk(2, dim=1)
                return ModelOutput(embedding=mu, log_covariance=logvar)

        class Decoder(BaseDecoder):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.layers = plain.decoder

            def forward(self, z: Tensor) -> Any:
                return ModelOutput(reconstruction=self.layers(z).sigmoid())

        config = BetaVAEConfig(
            input_dim=(1, 64, 64), latent_dim=LATENT_DIM, beta=BETA, reconstruction_loss="bce"
        )
        self._model = BetaVAE(config, Encoder(), Decoder()).to(device)
        self._sample = self._model._sample_gauss

    def loss(self, x: Tensor, noise: Tensor | None) -> Tensor:
        # pythae accepts given noise only here.
        self._model._sample_gauss = (
            self._sample if noise is None else lambda mu, std: (mu + noise * std, noise)
        )
        loss: Tensor = self._model({"data": x}).loss
        return loss


def _encoder() -> nn.Module:
    convolutions = [
        layer
        for channels in (1, 32, 32, 32)
        for layer in (nn.Conv2d(channels, 32, 4, stride=2, padding=1), nn.ReLU())
    ]
    return nn.Sequential(*convolutions, nn.Flatten(), *_dense(512, 256, 256), nn.Linear(256, 2 * LATENT_DIM))


def _decoder() -> nn.Module:
    convolutions = [
        layer for _ in range(3) for layer in (nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1), nn.ReLU())
    ]
    last = nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1)
    dense = _dense(LATENT_DIM, 256, 256, 512)
    return nn.Sequential(*dense, nn.Unflatten(1, (32, 4, 4)), *convolutions, last)


def _dense(*sizes: int) -> list[nn.Module]:
    return [layer for size in pairwise(sizes) for layer in (nn.Linear(*size), nn.ReLU())]


def absent() -> dict[str, str]:
    """The contenders that cannot run here, each with the reason."""
    return {} if find_spec("pythae") else {"pythae": "it is not installed"}


Builder = Callable[[int, str], Trainer]


def _keeping_memory(trainer: Builder) -> Builder:
    def build(batch_size: int, device: str) -> Trainer:
        keep_freed_memory()
        return trainer(batch_size, device)

    return build


TRAINERS: dict[str, dict[str, Builder]] = {
    "cpu": {
        "eager": Eager,
        "eager, memory kept": _keeping_memory(Eager),
        "compile": Compiled,
        "pythae": Pythae,
        "ours, memory not kept": Ours,
        "ours": _keeping_memory(Ours),  # as in the command line
        "ours, bf16": _keeping_memory(partial(Ours, precision="bf16")),
    },
    "cuda": {
        "eager": Eager,
        "compile": Compiled,
        "compile, reduce-overhead": partial(Compiled, mode="reduce-overhead"),
        "compile, max-autotune": partial(Compiled, mode="max-autotune"),
        "pythae": Pythae,
        "ours": Ours,
        "ours, bf16": partial(Ours, precision="bf16"),
    },
}

"""Summarises a trained model: its reconstruction loss, and the KL of each channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from betavae_fast.choices import ACTIVE_NATS
from betavae_fast.data.images import ImageDataset
from betavae_fast.functional import reparameterize
from betavae_fast.nn import BetaVAE, ReconstructionLoss, split_kl
from betavae_fast.nn.pixels import to_float
from betavae_fast.training.log import LogEntry

_BATCH = 256
_NOISE_SEED = 0


@dataclass(frozen=True)
class Channel:
    """One latent dim: its KL in nats (mean over images), the two parts of this KL, and whether the dim is active."""

    index: int
    kl: float
    mean_dispersion: float
    variance: float
    active: bool


@dataclass(frozen=True)
class Summary:
    """Means over images, in nats per image.

    A model trains on sampled codes, so the losses in training logs, also in published ones, compare with
    ``sampled_reconstruction`` and ``negative_elbo``. Pictures and scores use mean codes, as ``reconstruction`` does.
    """

    images: int
    reconstruction: float  # −log p(x | z = μ): at the mean code
    sampled_reconstruction: float  # −log p(x | z), z ~ q(z | x): at a sampled code, one for each image
    negative_elbo: float  # sampled_reconstruction + kl: the loss of a VAE with β = 1
    mean_image_reconstruction: float  # the same for a model whose output is always the data's mean image
    # The same for a model whose output is the image itself. It is 0 for binary pixels under a Bernoulli likelihood.
    least_reconstruction: float
    kl: float
    channels: list[Channel]  # sorted by KL, largest first

    @property
    def explained(self) -> float:
        """The share of the way from the mean image's loss to the least one that the model has come.

        It is below 0 if the model is worse than the mean image.
        """
        gained = self.mean_image_reconstruction - self.reconstruction
        possible = self.mean_image_reconstruction - self.least_reconstruction
        return gained / possible if possible > 0 else 0.0

    @property
    def used(self) -> list[Channel]:
        """The channels in use, which carry more than ``ACTIVE_NATS``, sorted by KL."""
        return [channel for channel in self.channels if channel.active]

    @property
    def active_channels(self) -> int:
        """The number of channels in use."""
        return len(self.used)


@torch.no_grad()
def summarise(
    model: BetaVAE, dataset: ImageDataset, *, among: Tensor | None = None, max_images: int = 4096
) -> Summary:
    """Measure ``model``, which must be in evaluation mode (z = μ), on up to ``max_images`` images.

    The images are the same on every call: a random choice (data sets may be ordered) with a fixed seed. The noise of the
    sampled codes is the same, too.

    Args:
        among: indices of the images to choose from, int64; None: all.
    """
    device = next(model.parameters()).device
    dataset = dataset.to(device)
    indices = choose_among(dataset, among, max_images).to(device)
    likelihood = ReconstructionLoss(model.likelihood, scale=model.scale)
    mean_image = _as_decoded(dataset.mean_image(), model)

    # ``sums``: reconstruction loss at the mean code, at a sampled code, of the mean image and of the images themselves;
    # ``parts``: the two parts of each channel's KL.
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    parts = torch.zeros(2, model.latent_dim, dtype=torch.float64, device=device)
    for number, chosen in enumerate(torch.split(indices, _BATCH)):
        images = dataset.gather(chosen)
        out = model(images)
        logvar = model.latent.clamped(out.logvar)
        z = reparameterize(
            out.mu, logvar, seed=_NOISE_SEED, first_row=number * _BATCH, backend=model.latent.backend
        )
        itself = _as_decoded(to_float(images), model)
        outputs = (out.decoded, model.decode(z), mean_image.expand(out.decoded.shape), itself)
        losses = [likelihood(output, images) for output in outputs]
        sums += len(chosen) * torch.stack(losses).double()
        parts += len(chosen) * torch.stack(split_kl(out.mu, logvar)).double()

    reconstruction, sampled, baseline, least = (sums / len(indices)).tolist()
    channels = _sorted_channels((parts / len(indices)).T.tolist())
    kl = sum(channel.kl for channel in channels)
    return Summary(len(indices), reconstruction, sampled, sampled + kl, baseline, least, kl, channels)


def channels_of(entry: LogEntry) -> list[Channel]:
    """The channels in an entry of a run's log, sorted by KL, largest first."""
    parts = zip(entry.mean_dispersion, entry.variance, strict=True)
    return _sorted_channels(parts)


def choose_images(dataset_size: int, count: int) -> Tensor:
    """Choose ``count`` different images, or all if there are fewer: their indices, random but the same on every call."""
    return torch.randperm(dataset_size, generator=torch.Generator().manual_seed(0))[:count]


def choose_among(dataset: ImageDataset, among: Tensor | None, count: int) -> Tensor:
    """Choose as ``choose_images`` does, from the images of ``dataset`` at the indices ``among``; None: from all."""
    chosen = choose_images(len(dataset) if among is None else len(among), count)
    return chosen if among is None else among.cpu()[chosen]


def _sorted_channels(parts: Iterable[Sequence[float]]) -> list[Channel]:
    """Make channels from the two parts of their KLs, mean dispersion and variance; the largest KL comes first."""
    channels = [
        Channel(index, dispersion + variance, dispersion, variance, dispersion + variance > ACTIVE_NATS)
        for index, (dispersion, variance) in enumerate(parts)
    ]
    return sorted(channels, key=lambda channel: channel.kl, reverse=True)


def _as_decoded(image: Tensor, model: BetaVAE) -> Tensor:
    """The decoder output that stands for these expected pixels; finite even for a pixel that is never or always on."""
    return image.logit(eps=1e-6) if model.likelihood == "bernoulli" else image

"""Moves one latent channel at a time, to show what it stands for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from betavae_fast.evaluation.encoding import Encoding
from betavae_fast.nn import BetaVAE


@torch.no_grad()
def traverse(
    model: BetaVAE, image: Tensor | None, channels: Sequence[int], values: Sequence[float] | Tensor
) -> Tensor:
    """The expected images with one channel of z set to each value and the others kept at the posterior mean of ``image``.

    Args:
        image: (C, H, W), as the model takes it; None keeps the other channels at the prior's mean, 0.
        channels: the latent dims to move, one row each.
        values: values of the moved channel, (V,) for all channels or (len(channels), V); −3 … 3 covers the prior
            N(0, 1).
    Returns: (len(channels), V, C, H, W), pixels in [0, 1] for a Bernoulli likelihood.
    Raises: IndexError for a channel the model does not have.
    """
    if image is None:
        parameter = next(model.parameters())
        mu = torch.zeros(1, model.latent_dim, dtype=parameter.dtype, device=parameter.device)
    else:
        mu, _ = model.encode(image.unsqueeze(0))
    places = torch.as_tensor(values, dtype=mu.dtype, device=mu.device).expand(len(channels), -1)
    z = mu.expand(places.numel(), -1).clone().view(*places.shape, model.latent_dim)
    for row, channel in enumerate(channels):
        z[row, :, channel] = places[row]
    decoded = model.decode(z.flatten(0, 1))
    return model.pixels(decoded).view(*places.shape, *model.image_shape)


def posterior_values(encoding: Encoding, channels: Sequence[int], deviations: Sequence[float]) -> Tensor:
    """The channel values, (len(channels), V), at these standard deviations from the mean of the aggregated posterior.

    The aggregated posterior is the mixture of the posteriors of all images. Its variance is the variance of their means
    plus the mean of their variances.
    """
    mu, logvar = encoding.mu[:, channels], encoding.logvar[:, channels]
    spread = (mu.var(0, correction=0) + logvar.exp().mean(0)).sqrt()
    return mu.mean(0).unsqueeze(1) + spread.unsqueeze(1) * torch.tensor(deviations)

"""Moving one latent channel at a time, to see what it stands for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from betavae_fast.nn import BetaVAE


@torch.no_grad()
def traverse(model: BetaVAE, image: Tensor, channels: Sequence[int], values: Sequence[float]) -> Tensor:
    """Expected images with one channel of z set to each value, the others left at the posterior mean of
    ``image``.

    Args:
        image: (C, H, W), as the model takes it.
        channels: which latent dims to move, one row each.
        values: where to put them; the prior is N(0, 1), so −3 … 3 covers it.
    Returns: (len(channels), len(values), C, H, W), pixels in [0, 1] for a Bernoulli likelihood.
    Raises: IndexError for a channel the model does not have.
    """
    mu, _ = model.encode(image.unsqueeze(0))
    z = mu.expand(len(channels) * len(values), -1).clone().view(len(channels), len(values), model.latent_dim)
    for row, channel in enumerate(channels):
        z[row, :, channel] = torch.tensor(values, dtype=z.dtype, device=z.device)
    decoded = model.decode(z.flatten(0, 1))
    return model.pixels(decoded).view(len(channels), len(values), *model.image_shape)

"""Moves one latent channel at a time, to show what it stands for, as images, as a picture and as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from betavae_fast.evaluation import TRAVERSAL_COLUMNS, TRAVERSAL_EXTENT, pictures
from betavae_fast.evaluation.encoding import Encoding
from betavae_fast.evaluation.summary import Channel
from betavae_fast.files import atomic_writer
from betavae_fast.nn import BetaVAE

_FRAMES, _FRAME_MS = 21, 90
_POSTERIOR_LABEL = "standard deviations of the channel's aggregated posterior from its mean"


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


def write_traversal(
    path: Path,
    model: BetaVAE,
    image: Tensor | None,
    channels: Sequence[Channel],
    *,
    encoding: Encoding | None = None,
    extent: float = TRAVERSAL_EXTENT,
    columns: int = TRAVERSAL_COLUMNS,
) -> None:
    """Draw a row of images for each channel, which moves from −extent to extent standard deviations.

    Args:
        image: (C, H, W), whose code the other channels keep; None keeps them at the prior's mean.
        channels: the channels to move, in this order.
        encoding: encoding of the data, to measure deviations in each channel's aggregated posterior; None for the
            prior N(0, 1).
        columns: number of values shown.
    """
    deviations = _steps(extent, columns)
    images = _moved(model, image, channels, encoding, deviations)
    label = pictures.PRIOR_LABEL if encoding is None else _POSTERIOR_LABEL
    start = "the prior's mean" if image is None else "one image's posterior mean"
    pictures.save(pictures.traversal(images, channels, deviations, label, start), path)


def strips(model: BetaVAE, image: Tensor, channels: Sequence[Channel]) -> list[Image.Image]:
    """Draw one strip of images for each channel: the row that ``write_traversal`` draws for it, without labels.

    Args:
        image: (C, H, W), whose code the other channels keep.
    """
    if not channels:
        return []
    moved = _moved(model, image, channels, None, _steps(TRAVERSAL_EXTENT, TRAVERSAL_COLUMNS))
    return [pictures.strip(row) for row in moved]


def write_moving_traversal(
    path: Path,
    model: BetaVAE,
    image: Tensor | None,
    channels: Sequence[Channel],
    *,
    encoding: Encoding | None = None,
    extent: float = TRAVERSAL_EXTENT,
) -> None:
    """Draw the traversal as an animated GIF: all channels move back and forth at the same time, without end."""
    deviations = _steps(extent, _FRAMES)
    images = _moved(model, image, channels, encoding, deviations)
    frames = pictures.traversal_frames(images, channels, deviations)
    there_and_back = [*frames, *frames[-2:0:-1]]
    with atomic_writer(path) as file:
        there_and_back[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=there_and_back[1:],
            duration=_FRAME_MS,
            loop=0,
            optimize=True,
        )


def _moved(
    model: BetaVAE,
    image: Tensor | None,
    channels: Sequence[Channel],
    encoding: Encoding | None,
    deviations: Sequence[float],
) -> pictures.Images:
    order = [channel.index for channel in channels]
    values = deviations if encoding is None else posterior_values(encoding, order, deviations)
    images: pictures.Images = traverse(model, image, order, values).float().cpu().numpy()
    return images


def _steps(extent: float, count: int) -> list[float]:
    return np.linspace(-extent, extent, count).round(6).tolist()

"""Writes a traversal as a picture and as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from betavae_fast.evaluation import pictures
from betavae_fast.evaluation.encoding import Encoding
from betavae_fast.evaluation.summary import Channel
from betavae_fast.evaluation.traversal import posterior_values, traverse
from betavae_fast.files import atomic_writer
from betavae_fast.nn import BetaVAE

EXTENT = 3.0  # standard deviations on either side
COLUMNS = 11  # values shown
_FRAMES, _FRAME_MS = 21, 90
_PRIOR_LABEL = "value of the channel, in standard deviations of the prior"
_POSTERIOR_LABEL = "standard deviations of the channel's aggregated posterior from its mean"


def write_traversal(
    path: Path,
    model: BetaVAE,
    image: Tensor | None,
    channels: Sequence[Channel],
    *,
    encoding: Encoding | None = None,
    extent: float = EXTENT,
    columns: int = COLUMNS,
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
    label = _PRIOR_LABEL if encoding is None else _POSTERIOR_LABEL
    pictures.save(pictures.traversal(images, channels, deviations, label), path)


def write_moving_traversal(
    path: Path,
    model: BetaVAE,
    image: Tensor | None,
    channels: Sequence[Channel],
    *,
    encoding: Encoding | None = None,
    extent: float = EXTENT,
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

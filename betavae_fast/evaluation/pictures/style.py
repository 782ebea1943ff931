"""Colours and helpers that all figures share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from betavae_fast.files import atomic_writer

Images = NDArray[np.floating]  # (..., C, H, W) in [0, 1]

DISPERSION_COLOUR, VARIANCE_COLOUR = "#1f6fb4", "#f2a241"
FADED = "#8a8a8a"


def show(axis: Axes, image: Images) -> None:
    """Draw one image (C, H, W) without ticks or frame. If C is neither 1 nor 3, the first channel is shown."""
    channels_last = np.moveaxis(np.clip(image, 0, 1), 0, -1)
    if channels_last.shape[-1] == 3:
        axis.imshow(channels_last)
    else:
        axis.imshow(channels_last[..., 0], cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` as a PNG file, atomically: if the disk is full, the old file stays."""
    with atomic_writer(path) as file:
        figure.savefig(file, format="png", dpi=120)

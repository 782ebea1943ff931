"""Grids of images: reconstructions and latent traversals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from betavae_fast.choices import ACTIVE_NATS
from betavae_fast.evaluation.summary import Channel

from .style import FADED, Images, show


def reconstructions(originals: Images, reconstructed: Images, *, columns: int = 10) -> Figure:
    """Draw originals above their reconstructions, in bands of ``columns`` pairs.

    Args:
        originals, reconstructed: (N, C, H, W). If C is neither 1 nor 3, the first channel is shown.
    """
    columns = min(columns, len(originals))
    bands = -(-len(originals) // columns)
    figure = Figure(figsize=(1.0 + 0.95 * columns, 0.6 + 2.1 * bands), layout="constrained")
    figure.suptitle("Reconstructions: each image above the decoder's output for its posterior mean (z = μ)")
    axes = figure.subplots(2 * bands, columns, squeeze=False)
    for position in range(bands * columns):
        band, column = divmod(position, columns)
        for row, images in enumerate((originals, reconstructed)):
            axis = axes[2 * band + row, column]
            if position < len(images):
                show(axis, images[position])
            else:
                axis.set_axis_off()
    for band in range(bands):
        for row, label in enumerate(("data", "model")):
            axes[2 * band + row, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
    return figure


def traversal(
    images: Images,
    channels: Sequence[Channel],
    values: Sequence[float],
    axis_label: str = "value of the channel, in standard deviations of the prior",
) -> Figure:
    """Draw one row per channel, in the order given; each column sets the channel to the value above it.

    Args:
        images: (len(channels), len(values), C, H, W).
        axis_label: description of the values.
    """
    rows, columns = len(channels), len(values)
    figure = Figure(figsize=(1.6 + 0.85 * columns, 1.1 + 0.85 * rows), layout="constrained")
    figure.suptitle(
        "Latent traversal: each row moves one channel, the others stay at one image's posterior mean\n"
        f"channels sorted by KL; grey: inactive (at most {ACTIVE_NATS} nats)",
        fontsize=11,
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, channel in enumerate(channels):
        for column in range(columns):
            show(axes[row, column], images[row, column])
        colour = "black" if channel.active else FADED
        axes[row, 0].set_ylabel(
            f"channel {channel.index}\n{channel.kl:.3f} nats",
            rotation=0,
            ha="right",
            va="center",
            color=colour,
        )
    for column, value in enumerate(values):
        axes[0, column].set_title(f"{value:+.2g}" if value else "0", fontsize=9)
    figure.supxlabel(axis_label, fontsize=10)
    return figure


def traversal_frames(
    images: Images, channels: Sequence[Channel], values: Sequence[float]
) -> list[Image.Image]:
    """Draw the traversal as an animation: all channels side by side, each frame at the next value.

    Args:
        images: (len(channels), len(values), C, H, W).
    Returns: len(values) pictures of one size.
    """
    columns = min(5, len(channels))
    rows = -(-len(channels) // columns)
    figure = Figure(figsize=(0.3 + 1.25 * columns, 0.5 + 1.45 * rows), layout="constrained", dpi=90)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(channels) :]:
        axis.set_axis_off()
    frames = []
    for column, value in enumerate(values):
        for axis, channel, moved in zip(axes.flat, channels, images[:, column], strict=False):
            axis.clear()
            show(axis, moved)
            colour = "black" if channel.active else FADED
            axis.set_title(f"channel {channel.index}", fontsize=9, color=colour)
        figure.suptitle(f"{value:+.1f}", fontsize=10)
        canvas.draw()
        figure.set_layout_engine("none")  # all frames keep the layout of the first
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    return frames

"""A figure of the latents' distribution beside the prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from betavae_fast.evaluation.summary import Channel

from .style import DISPERSION_COLOUR, FADED

_LIMIT = 4.0  # standard deviations of the prior on either side


def aggregated_posterior(samples: NDArray[np.floating], channels: Sequence[Channel]) -> Figure:
    """Draw a histogram of each channel's samples over all images, with the density of the prior N(0, 1) as a line.

    Args:
        samples: z (N, D), one draw from each image's posterior.
        channels: the channels to show, one panel each, in this order.
    """
    columns = min(5, len(channels))
    rows = -(-len(channels) // columns)
    figure = Figure(figsize=(1.2 + 2.2 * columns, 1.3 + 1.7 * rows), layout="constrained")
    figure.suptitle("Samples of each channel over all images, and the prior N(0, 1) (line)", fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    edges = np.linspace(-_LIMIT, _LIMIT, 65)
    line = np.linspace(-_LIMIT, _LIMIT, 200)
    density = np.exp(-0.5 * line**2) / np.sqrt(2 * np.pi)
    for axis, channel in zip(axes.flat, channels, strict=False):
        z = samples[:, channel.index]
        # Samples beyond the limits count in the total, so that the heights compare with the density.
        heights = np.histogram(z, edges)[0] / (len(z) * np.diff(edges))
        axis.stairs(
            heights, edges, fill=True, color=DISPERSION_COLOUR if channel.active else FADED, alpha=0.6
        )
        axis.plot(line, density, color="black", linewidth=1)
        colour = "black" if channel.active else FADED
        axis.set_title(
            f"channel {channel.index}: mean {z.mean():.2f}, std {z.std():.2f}", fontsize=9, color=colour
        )
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(channels) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("z", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("density", fontsize=9)
    return figure

"""Figures that show which channel encodes which factor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from betavae_fast.evaluation.summary import Channel

from .style import DISPERSION_COLOUR, FADED


def information(shares: NDArray[np.floating], channels: Sequence[Channel], factors: Sequence[str]) -> Figure:
    """Draw the share of each factor's entropy that each channel knows, as a matrix of shades and numbers.

    Args:
        shares: (len(channels), len(factors)), mutual information over the factor's entropy, in [0, 1].
    """
    rows, columns = shares.shape
    figure = Figure(figsize=(2.6 + 0.95 * columns, 1.5 + 0.38 * rows), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.55 else "black" if channels[row].active else FADED
        axis.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=9)
    axis.set_xticks(range(columns), factors)
    axis.xaxis.tick_top()
    labels = axis.set_yticks(range(rows), [f"channel {channel.index}" for channel in channels])
    for label, channel in zip(labels, channels, strict=True):
        label.label1.set_color("black" if channel.active else FADED)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.colorbar(picture, ax=axis, shrink=0.8, label="share of the factor's entropy")
    figure.suptitle("Information of each channel about each factor", fontsize=11)
    return figure


def code_against_factor(
    means: Sequence[NDArray[np.floating]],
    deviations: Sequence[NDArray[np.floating]],
    channels: Sequence[Channel],
    factors: Sequence[str],
) -> Figure:
    """Draw a panel for each channel and factor: the mean code of each class, with one standard deviation shaded.

    A channel that encodes a single factor moves in only one panel of its row.

    Args:
        means, deviations: one array (classes, len(channels)) for each factor.
    """
    rows, columns = len(channels), len(factors)
    figure = Figure(figsize=(1.2 + 1.9 * columns, 1.2 + 1.25 * rows), layout="constrained")
    figure.suptitle("Code of each channel against each factor: mean, and one standard deviation", fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey=True)
    for row, channel in enumerate(channels):
        for column in range(columns):
            axis = axes[row, column]
            mean, deviation = means[column][:, row], deviations[column][:, row]
            classes = np.arange(len(mean))
            axis.fill_between(
                classes, mean - deviation, mean + deviation, color=DISPERSION_COLOUR, alpha=0.2, linewidth=0
            )
            marker = "o" if len(mean) <= 10 else None
            axis.plot(classes, mean, color=DISPERSION_COLOUR, linewidth=1.4, marker=marker, markersize=3)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        axes[row, 0].set_ylabel(f"channel {channel.index}", fontsize=9)
    for axis, name in zip(axes[0], factors, strict=True):
        axis.set_title(name, fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("class", fontsize=9)
    return figure


def position_maps(
    maps: NDArray[np.floating], channels: Sequence[Channel], names: tuple[str, str] = ("posY", "posX")
) -> Figure:
    """Draw the mean code of each channel at each position, over all other factors.

    A channel that encodes one axis shows stripes. A channel that encodes both shows a slanted gradient or a pattern. A
    channel that encodes neither shows a flat field.

    Args:
        maps: (len(channels), rows, columns).
        names: names of the factors along rows and columns.
    """
    columns = min(5, len(channels))
    rows = -(-len(channels) // columns)
    figure = Figure(figsize=(1.6 + 1.9 * columns, 1.2 + 2.0 * rows), layout="constrained")
    figure.suptitle("Mean code of each channel over the positions", fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    limit = max(float(np.abs(maps).max()), 1e-6)
    for axis, channel, values in zip(axes.flat, channels, maps, strict=False):
        picture = axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(f"channel {channel.index}", fontsize=10, color="black" if channel.active else FADED)
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes.flat[len(channels) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel(names[1], fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel(names[0], fontsize=9)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="mean code")
    return figure

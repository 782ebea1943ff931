"""A figure of each channel's KL over training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from betavae_fast.choices import ACTIVE_NATS

from .style import DISPERSION_COLOUR, FADED, VARIANCE_COLOUR


def capacity(
    images_seen: Sequence[int],
    mean_dispersion: NDArray[np.floating],
    variance: NDArray[np.floating],
    *,
    max_channels: int = 20,
) -> Figure:
    """Draw each channel's KL over training, stacked from its two parts, one panel per channel, sorted by the last KL.

    Args:
        images_seen: number of images seen at each of T moments.
        mean_dispersion, variance: (T, D), nats.
        max_channels: largest number of panels; the channels with the largest KL are shown.
    """
    total = mean_dispersion + variance
    order = np.argsort(-total[-1], kind="stable")
    shown = order[:max_channels]
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.2 + 2.3 * columns, 1.5 + 1.9 * rows), layout="constrained")
    which = (
        f"all {len(order)} channels"
        if len(shown) == len(order)
        else f"the {len(shown)} largest of {len(order)}"
    )
    figure.suptitle(
        f"Capacity of each channel over training ({which}, sorted by KL at the end)\n"
        f"total {total[-1].sum():.2f} nats, "
        f"{(total[-1] > ACTIVE_NATS).sum()} channels above {ACTIVE_NATS} nats",
        fontsize=11,
    )
    thousands = np.asarray(images_seen) / 1000
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis, channel in zip(axes.flat, shown, strict=False):
        areas = axis.stackplot(
            thousands,
            mean_dispersion[:, channel],
            variance[:, channel],
            colors=(DISPERSION_COLOUR, VARIANCE_COLOUR),
            labels=("mean dispersion ½ μ²", "variance ½ (σ² − 1 − log σ²)"),
            linewidth=0,
        )
        axis.plot(thousands, total[:, channel], color="black", linewidth=0.8)
        colour = "black" if total[-1, channel] > ACTIVE_NATS else FADED
        axis.set_title(f"channel {channel}: {total[-1, channel]:.3f} nats", fontsize=10, color=colour)
        axis.grid(alpha=0.25)
        axis.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))  # the last would hit the next panel's 0
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    axes[0, 0].set_xlim(0, thousands[-1])
    axes[0, 0].set_ylim(0, None)
    for axis in axes[-1]:
        axis.set_xlabel("images seen, thousands", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("KL, nats per image", fontsize=9)
    figure.legend(handles=areas, loc="outside lower center", ncols=2, frameon=False)
    return figure

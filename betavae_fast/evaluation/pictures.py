"""Pictures a person reads. Each function takes arrays and returns a figure; none of them knows a model.

Figures are made without pyplot: no global state, and no display needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from betavae_fast.choices import ACTIVE_NATS
from betavae_fast.evaluation.summary import Channel

Images = NDArray[np.floating]  # (..., C, H, W) in [0, 1]

DISPERSION_COLOUR, VARIANCE_COLOUR = "#1f6fb4", "#f2a241"
FADED = "#8a8a8a"


def reconstructions(originals: Images, reconstructed: Images, *, columns: int = 10) -> Figure:
    """Originals above their reconstructions, ``columns`` pairs a band.

    Args:
        originals, reconstructed: (N, C, H, W), C = 1 or 3 (of other channel counts the first is shown).
    """
    columns = min(columns, len(originals))
    bands = -(-len(originals) // columns)
    figure = Figure(figsize=(1.0 + 0.95 * columns, 0.6 + 2.1 * bands), layout="constrained")
    figure.suptitle("Reconstructions: each image above what the decoder makes of its posterior mean (z = μ)")
    axes = figure.subplots(2 * bands, columns, squeeze=False)
    for position in range(bands * columns):
        band, column = divmod(position, columns)
        for row, images in enumerate((originals, reconstructed)):
            axis = axes[2 * band + row, column]
            if position < len(images):
                _show(axis, images[position])
            else:
                axis.set_axis_off()
    for band in range(bands):
        for row, label in enumerate(("data", "model")):
            axes[2 * band + row, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
    return figure


def traversal(images: Images, channels: Sequence[Channel], values: Sequence[float]) -> Figure:
    """One row a channel, in the order given; each column sets that channel to the value above it.

    Args:
        images: (len(channels), len(values), C, H, W).
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
            _show(axes[row, column], images[row, column])
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
    figure.supxlabel("value of the channel, in standard deviations of the prior", fontsize=10)
    return figure


def capacity(
    images_seen: Sequence[int],
    mean_dispersion: NDArray[np.floating],
    variance: NDArray[np.floating],
    *,
    max_channels: int = 20,
) -> Figure:
    """Each channel's KL over training, stacked from its two parts: one panel a channel, sorted by KL at the
    end.

    Args:
        images_seen: images seen at each of T moments.
        mean_dispersion, variance: (T, D), nats.
        max_channels: show at most this many panels, those with the largest KL.
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
        axis.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))  # or it runs into the next panel's 0
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


def _show(axis: Axes, image: Images) -> None:
    channels_last = np.moveaxis(np.clip(image, 0, 1), 0, -1)
    if channels_last.shape[-1] == 3:
        axis.imshow(channels_last)
    else:
        axis.imshow(channels_last[..., 0], cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)

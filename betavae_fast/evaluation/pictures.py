"""Draws figures. Each function takes arrays and returns a figure; none of them needs a model.

Figures are made without pyplot, so that they need no display and leave no global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from betavae_fast.choices import ACTIVE_NATS
from betavae_fast.evaluation.summary import Channel
from betavae_fast.files import atomic_writer

Images = NDArray[np.floating]  # (..., C, H, W) in [0, 1]

FADED = "#8a8a8a"  # the colour of an inactive channel
_DISPERSION_COLOUR, _VARIANCE_COLOUR = "#1f6fb4", "#f2a241"
MANY_FACTORS = 12
"""The most factors that a picture shows in full: with more, names stand upright, and panels are chosen."""

_LONG_NAME = 24  # letters
_STRIP_ROWS = 64
_GAP, _WIDE_GAP = 1, 4  # pixels between the images of a grid, and between those in rows with names
_LIMIT = 4.0  # standard deviations of the prior on either side, in the aggregated posterior

PRIOR_LABEL = "value of the channel, in standard deviations of the prior"


def reconstructions(originals: Images, reconstructed: Images, *, columns: int = 10) -> Figure:
    """Draw originals above their reconstructions, in bands of ``columns`` pairs.

    Args:
        originals, reconstructed: (N, C, H, W). If C is neither 1 nor 3, the first channel is shown.
    """
    columns = min(columns, len(originals))
    bands = -(-len(originals) // columns)
    # Rows of data and of the model in turn; images that complete the last band are white.
    rows = np.ones((bands, 2, columns, *originals.shape[1:]), np.float32)
    for band in range(bands):
        shown = slice(band * columns, (band + 1) * columns)
        for row, images in zip(rows[band], (originals[shown], reconstructed[shown]), strict=True):
            row[: len(images)] = images
    figure = Figure(figsize=(1.0 + 0.95 * columns, 0.6 + 1.9 * bands), layout="constrained")
    figure.suptitle("Reconstructions: each image above the decoder's output for its posterior mean (z = μ)")
    _show_rows(figure.subplots(), rows.reshape(-1, *rows.shape[2:]), ["data", "model"] * bands)
    return figure


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
    which = (
        f"all {len(order)} channels"
        if len(shown) == len(order)
        else f"the {len(shown)} largest of {len(order)}"
    )
    figure, axes = _panels(
        len(shown), (2.3, 1.9), margin=(1.2, 1.5), labels=("images seen, thousands", "KL, nats per image")
    )
    figure.suptitle(
        f"Capacity of each channel over training ({which}, sorted by KL at the end)\n"
        f"total {total[-1].sum():.2f} nats, "
        f"{(total[-1] > ACTIVE_NATS).sum()} channels above {ACTIVE_NATS} nats",
        fontsize=11,
    )
    thousands = np.asarray(images_seen) / 1000
    for axis, channel in zip(axes.flat, shown, strict=False):
        areas = axis.stackplot(
            thousands,
            mean_dispersion[:, channel],
            variance[:, channel],
            colors=(_DISPERSION_COLOUR, _VARIANCE_COLOUR),
            labels=("mean dispersion ½ μ²", "variance ½ (σ² − 1 − log σ²)"),
            linewidth=0,
        )
        axis.plot(thousands, total[:, channel], color="black", linewidth=0.8)
        colour = _ink(total[-1, channel] > ACTIVE_NATS)
        axis.set_title(f"channel {channel}: {total[-1, channel]:.3f} nats", fontsize=10, color=colour)
        axis.grid(alpha=0.25)
        axis.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))  # the last would hit the next panel's 0
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_xlim(0, thousands[-1])
    axes[0, 0].set_ylim(0, None)
    figure.legend(handles=areas, loc="outside lower center", ncols=2, frameon=False)
    return figure


def traversal(
    images: Images,
    channels: Sequence[Channel],
    values: Sequence[float],
    axis_label: str = PRIOR_LABEL,
    start: str = "one image's posterior mean",
) -> Figure:
    """Draw one row per channel, in the order given; each column sets the channel to the value above it.

    Args:
        images: (len(channels), len(values), C, H, W).
        axis_label: description of the values.
        start: description of the code that the other channels keep.
    """
    rows, columns = len(channels), len(values)
    figure = Figure(figsize=(1.6 + 0.85 * columns, 1.1 + 0.85 * rows), layout="constrained")
    figure.suptitle(
        f"Latent traversal: each row moves one channel, the others stay at {start}\n"
        f"channels sorted by KL; grey: inactive (at most {ACTIVE_NATS} nats)",
        fontsize=11,
    )
    axis = figure.subplots()
    _show_rows(axis, images, [f"channel {channel.index}\n{channel.kl:.3f} nats" for channel in channels])
    for label, channel in zip(axis.get_yticklabels(), channels, strict=True):
        label.set_color(_ink(channel.active))
    places = _centres(columns, images.shape[-1])
    axis.set_xticks(places, [f"{value:+.2g}" if value else "0" for value in values], fontsize=9)
    axis.xaxis.tick_top()
    figure.supxlabel(axis_label, fontsize=10)
    return figure


def strip(images: Images) -> Image.Image:
    """Put images side by side without labels, from left to right, for use beside a text.

    Small images are enlarged by a whole number, so that they have at least 64 rows.

    Args:
        images: (V, C, H, W). If C is neither 1 nor 3, the first channel is shown.
    """
    return grid(images, len(images))


def grid(images: Images, columns: int) -> Image.Image:
    """Put images into rows of ``columns`` without labels, in reading order. They are enlarged as by `strip`.

    Args:
        images: (N, C, H, W). If C is neither 1 nor 3, the first channel is shown.
    """
    picture = Image.fromarray(_tiles(images, columns, (_GAP, _GAP)))
    scale = _enlargement(images.shape[2])
    return picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST)


def grid_bytes(height: int, width: int) -> int:
    """The bytes of memory that `grid` takes for each image."""
    # Twice as an array of RGB, then as pictures, whose pixels take four bytes.
    return (height + _GAP) * (width + _GAP) * (6 + 4 + 4 * _enlargement(height) ** 2)


def _enlargement(height: int) -> int:
    return -(-_STRIP_ROWS // height)


def traversal_frames(
    images: Images, channels: Sequence[Channel], values: Sequence[float]
) -> list[Image.Image]:
    """Draw the traversal as an animation: all channels side by side, each frame at the next value.

    Args:
        images: (len(channels), len(values), C, H, W).
    Returns: len(values) pictures of one size.
    """
    count = len(channels)
    columns = min(5, count)
    rows, (height, width) = -(-count // columns), images.shape[-2:]
    title = max(1, height // 4)  # rows of pixels for a channel's name
    figure = Figure(figsize=(0.3 + 1.25 * columns, 0.5 + 1.45 * rows), layout="constrained", dpi=90)
    axis = figure.subplots()
    axis.set_axis_off()
    shown = axis.imshow(_tiles(images[:, 0], columns, (title, _GAP)))
    for position, channel in enumerate(channels):
        row, column = divmod(position, columns)
        axis.text(
            column * (width + _GAP) + (width - 1) / 2,
            row * (height + title) - 1,
            f"channel {channel.index}",
            ha="center",
            va="bottom",
            fontsize=9,
            color=_ink(channel.active),
        )
    canvas = FigureCanvasAgg(figure)
    frames = []
    for column, value in enumerate(values):
        shown.set_data(_tiles(images[:, column], columns, (title, _GAP)))
        figure.suptitle(f"{value:+.1f}", fontsize=10)
        canvas.draw()
        figure.set_layout_engine("none")  # all frames keep the layout of the first
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    return frames


def aggregated_posterior(samples: NDArray[np.floating], channels: Sequence[Channel]) -> Figure:
    """Draw a histogram of each channel's samples over all images, with the density of the prior N(0, 1) as a line.

    Args:
        samples: z (N, D), one draw from each image's posterior.
        channels: the channels to show, one panel each, in this order.
    """
    figure, axes = _panels(len(channels), (2.2, 1.7), margin=(1.2, 1.3), labels=("z", "density"))
    figure.suptitle("Samples of each channel over all images, and the prior N(0, 1) (line)", fontsize=11)
    edges = np.linspace(-_LIMIT, _LIMIT, 65)
    line = np.linspace(-_LIMIT, _LIMIT, 200)
    density = np.exp(-0.5 * line**2) / np.sqrt(2 * np.pi)
    for axis, channel in zip(axes.flat, channels, strict=False):
        z = samples[:, channel.index]
        # Samples beyond the limits count in the total, so that the heights compare with the density.
        heights = np.histogram(z, edges)[0] / (len(z) * np.diff(edges))
        fill = _DISPERSION_COLOUR if channel.active else FADED
        axis.stairs(heights, edges, fill=True, color=fill, alpha=0.6)
        axis.plot(line, density, color="black", linewidth=1)
        title = f"channel {channel.index}: mean {z.mean():.2f}, std {z.std():.2f}"
        axis.set_title(title, fontsize=9, color=_ink(channel.active))
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def information(shares: NDArray[np.floating], channels: Sequence[Channel], factors: Sequence[str]) -> Figure:
    """Draw the share of each factor's entropy that each channel knows, as a matrix of shades and numbers.

    Args:
        shares: (len(channels), len(factors)), mutual information over the factor's entropy, in [0, 1].
    """
    rows, columns = shares.shape
    many = columns > MANY_FACTORS
    width, over = (0.5, 2.6) if many else (0.95, 1.5)
    figure = Figure(figsize=(2.6 + width * columns, over + 0.38 * rows), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.55 else _ink(channels[row].active)
        axis.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=9)
    axis.set_xticks(range(columns), [_label(name) for name in factors], rotation=90 if many else 0)
    axis.xaxis.tick_top()
    labels = axis.set_yticks(range(rows), [f"channel {channel.index}" for channel in channels])
    for label, channel in zip(labels, channels, strict=True):
        label.label1.set_color(_ink(channel.active))
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
    *,
    left_out: int = 0,
) -> Figure:
    """Draw a panel for each channel and factor: the mean code of each class, with one standard deviation shaded.

    A channel that encodes a single factor moves in only one panel of its row.

    Args:
        means, deviations: one array (classes, len(channels)) for each factor.
        left_out: number of the other factors, which the channels know less.
    """
    rows, columns = len(channels), len(factors)
    figure = Figure(figsize=(1.2 + 1.9 * columns, 1.2 + 1.25 * rows), layout="constrained")
    which = f"the {columns} factors of {columns + left_out} known best" if left_out else "each factor"
    figure.suptitle(f"Code of each channel against {which}: mean, and one standard deviation", fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey=True)
    for (row, column), axis in np.ndenumerate(axes):
        mean, deviation = means[column][:, row], deviations[column][:, row]
        classes = np.arange(len(mean))
        axis.fill_between(
            classes, mean - deviation, mean + deviation, color=_DISPERSION_COLOUR, alpha=0.2, linewidth=0
        )
        marker = "o" if len(mean) <= 10 else None
        axis.plot(classes, mean, color=_DISPERSION_COLOUR, linewidth=1.4, marker=marker, markersize=3)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis, channel in zip(axes[:, 0], channels, strict=True):
        axis.set_ylabel(f"channel {channel.index}", fontsize=9)
    for axis, name in zip(axes[0], factors, strict=True):
        axis.set_title(_label(name), fontsize=10)
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
        maps: (len(channels), rows, columns); NaN, which is left white, where there are no images.
        names: names of the factors along rows and columns.
    """
    figure, axes = _panels(len(channels), (1.9, 2.0), margin=(1.6, 1.2), labels=(names[1], names[0]))
    figure.suptitle("Mean code of each channel over the positions", fontsize=11)
    limit = max(float(np.nanmax(np.abs(maps))), 1e-6)
    for axis, channel, values in zip(axes.flat, channels, maps, strict=False):
        picture = axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(f"channel {channel.index}", fontsize=10, color=_ink(channel.active))
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(picture, ax=axes, shrink=0.8, label="mean code")
    return figure


def rate_distortion(names: Sequence[str], rate: Sequence[float], distortion: Sequence[float]) -> Figure:
    """Draw each run as a point: its KL against its reconstruction loss.

    Args:
        names: names of the runs.
        rate: KL of the runs, nats per image.
        distortion: reconstruction loss of the runs, nats per image.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.scatter(rate, distortion, s=50, color=_DISPERSION_COLOUR, zorder=3)
    right_half = (min(rate) + max(rate)) / 2
    for name, x, y in zip(names, rate, distortion, strict=True):
        left = x > right_half  # keeps the name inside the picture
        axis.annotate(
            name,
            (x, y),
            xytext=(-8 if left else 8, 6),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=9,
        )
    axis.margins(0.12, 0.15)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel("rate: KL, nats per image")
    axis.set_ylabel("distortion: reconstruction loss, nats per image")
    axis.set_title("Rate and distortion of each run (lower left is better)", fontsize=11)
    return figure


class Line(NamedTuple):
    """The quartiles of a quantity over seeds at each value of a setting: four arrays of one length."""

    x: NDArray[np.floating]
    low: NDArray[np.floating]
    median: NDArray[np.floating]
    high: NDArray[np.floating]


def against_setting(setting: str, panels: Mapping[str, Mapping[str, Line]]) -> Figure:
    """Draw quantities against the values of a setting: medians as lines, quartiles as bands.

    Args:
        setting: the name of the setting.
        panels: for each quantity its lines by their names. A line that belongs to no value has NaN as its x, and is drawn
            dashed across the panel.
    """
    figure, axes = _panels(
        len(panels), (2.6, 2.1), margin=(0.2, 0.6), labels=(setting, ""), share=False, columns=4
    )
    values = sorted(
        {x for lines in panels.values() for line in lines.values() for x in line.x if np.isfinite(x)}
    )
    is_geometric = values[0] > 0 and values[-1] >= 8 * values[0]
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axis, (quantity, lines) in zip(axes.flat, panels.items(), strict=False):
        for name, line in lines.items():
            colour = f"C{names.index(name)}"
            if np.isnan(line.x).all():
                axis.axhspan(line.low[0], line.high[0], color=colour, alpha=0.12, linewidth=0)
                axis.axhline(line.median[0], color=colour, linestyle="--", linewidth=1.3)
            else:
                axis.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
                axis.plot(line.x, line.median, color=colour, marker="o", markersize=3.5, linewidth=1.3)
        if is_geometric:
            axis.set_xscale("log")
        axis.set_xticks(values, [f"{value:g}" for value in values], fontsize=8)
        axis.minorticks_off()
        axis.tick_params(axis="y", labelsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(quantity, fontsize=9)
    if len(names) > 1:
        handles = [Line2D([], [], color=f"C{i}", label=name) for i, name in enumerate(names)]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` as a PNG file, atomically: if the disk is full, the old file stays."""
    with atomic_writer(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _panels(
    count: int,
    size: tuple[float, float],
    *,
    margin: tuple[float, float],
    labels: tuple[str, str] | None = None,
    share: bool = True,
    columns: int = 5,
) -> tuple[Figure, NDArray[Any]]:
    """Make a figure of ``count`` panels, up to ``columns`` in a row, and its axes (rows, columns). Spare axes are blank.

    Args:
        size, margin: width and height of a panel, and of the space around all of them, in inches.
        labels: labels of the x axes in the last row and of the y axes in the first column.
        share: True if all panels share their axes.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = (margin[0] + size[0] * columns, margin[1] + size[1] * rows)
    figure = Figure(figsize=shape, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    if labels is not None:
        for axis in axes[-1]:
            axis.set_xlabel(labels[0], fontsize=9)
        for axis in axes[:, 0]:
            axis.set_ylabel(labels[1], fontsize=9)
    return figure, axes


def _show_rows(axis: Axes, images: Images, names: Sequence[str]) -> None:
    """Draw rows of images (rows, columns, C, H, W) on one pair of axes, each with its name to the left.

    One pair of axes for each image would take matplotlib a hundred times as long.
    """
    rows, columns = images.shape[:2]
    axis.imshow(_tiles(images.reshape(-1, *images.shape[2:]), columns, (_WIDE_GAP, _WIDE_GAP)))
    axis.set_xticks([])
    axis.set_yticks(_centres(rows, images.shape[-2]), names, fontsize=10)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _centres(count: int, size: int) -> list[float]:
    """The centres of ``count`` images with ``size`` pixels each and `_show_rows`'s gaps between them."""
    return [place * (size + _WIDE_GAP) + (size - 1) / 2 for place in range(count)]


def _tiles(images: Images, columns: int, gaps: tuple[int, int]) -> NDArray[np.uint8]:
    """Put images (N, C, H, W) into rows of ``columns`` in reading order, as RGB; what no image covers is white.

    Args:
        images: if C is neither 1 nor 3, the first channel is shown.
        gaps: pixels between rows and between columns.
    """
    height, width = images.shape[2:]
    rows = -(-len(images) // columns)
    down, along = height + gaps[0], width + gaps[1]
    # Bytes, and row by row, because the floats of many images fill the memory.
    whole = np.full((rows * down, columns * along, 3), 255, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = row * down, column * along
        shown = image if len(image) == 3 else image[:1]
        pixels = (255 * shown.clip(0, 1)).round()
        whole[top : top + height, left : left + width] = np.moveaxis(pixels, 0, -1)
    return whole[: rows * down - gaps[0], : columns * along - gaps[1]]


def _label(name: str) -> str:
    """A name in its first letters, which matplotlib shows as it is, without reading formulas between dollar signs."""
    short = name if len(name) <= _LONG_NAME else f"{name[: _LONG_NAME - 1]}…"
    return short.replace("$", r"\$")


def _ink(active: bool) -> str:
    """The colour of the texts about a channel."""
    return "black" if active else FADED

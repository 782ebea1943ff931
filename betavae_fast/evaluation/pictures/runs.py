"""A figure that compares several runs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from .style import DISPERSION_COLOUR


def rate_distortion(names: Sequence[str], rate: Sequence[float], distortion: Sequence[float]) -> Figure:
    """Draw each run as a point: its KL against its reconstruction loss.

    Args:
        names: names of the runs.
        rate: KL of the runs, nats per image.
        distortion: reconstruction loss of the runs, nats per image.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.scatter(rate, distortion, s=50, color=DISPERSION_COLOUR, zorder=3)
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

"""A traversal as files: a picture and a moving one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from betavae_fast.choices import TraversalRange
from betavae_fast.evaluation import pictures
from betavae_fast.evaluation.encoding import Encoding
from betavae_fast.evaluation.summary import Channel
from betavae_fast.evaluation.traversal import posterior_values, traverse
from betavae_fast.nn import BetaVAE

EXTENT = 3.0  # standard deviations on either side
COLUMNS = 11
_FRAMES, _FRAME_MS = 21, 90
_LABELS: dict[TraversalRange, str] = {
    "prior": "value of the channel, in standard deviations of the prior",
    "posterior": "standard deviations of the channel's aggregated posterior from its mean",
}


def write_traversal(
    folder: Path,
    model: BetaVAE,
    image: Tensor,
    channels: Sequence[Channel],
    encoding: Encoding,
    *,
    over: TraversalRange = "prior",
    extent: float = EXTENT,
    columns: int = COLUMNS,
) -> list[Path]:
    """Draw traversal.png and traversal.gif into ``folder``, which is made if missing.

    Args:
        image: (C, H, W), where the other channels stay.
        channels: which to move, in this order.
        encoding: of the data, for the aggregated posterior.
        over: what the deviations are of: the prior N(0, 1), or each channel's aggregated posterior.
        extent: how many standard deviations to go, both ways.
        columns: values shown in the picture.
    """
    order = [channel.index for channel in channels]

    def moved(deviations: Sequence[float]) -> pictures.Images:
        values = deviations if over == "prior" else posterior_values(encoding, order, deviations)
        images: pictures.Images = traverse(model, image, order, values).float().cpu().numpy()
        return images

    folder.mkdir(parents=True, exist_ok=True)
    picture, animation = folder / "traversal.png", folder / "traversal.gif"
    deviations = _steps(extent, columns)
    pictures.traversal(moved(deviations), channels, deviations, _LABELS[over]).savefig(picture, dpi=120)
    deviations = _steps(extent, _FRAMES)
    _write_gif(animation, pictures.traversal_frames(moved(deviations), channels, deviations))
    return [picture, animation]


def _steps(extent: float, count: int) -> list[float]:
    return np.linspace(-extent, extent, count).round(6).tolist()


def _write_gif(path: Path, frames: Sequence[Image.Image]) -> None:
    """Forth and back, for ever."""
    there_and_back = [*frames, *frames[-2:0:-1]]
    there_and_back[0].save(
        path, save_all=True, append_images=there_and_back[1:], duration=_FRAME_MS, loop=0, optimize=True
    )

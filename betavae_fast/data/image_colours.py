"""Converts samples to grey or RGB over black, in floating point, so that a pixel is rounded only once, at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def over_black(samples: Floats, mode: str, white: int, hidden: int | tuple[int, ...] | None) -> Floats:
    """Compose the colours of pixels (H, W, channels) onto black: (H, W, 1 or 3) from 0 to white.

    Args:
        mode: mode of the samples, as in `ImageSamples`.
        hidden: the value whose pixels are transparent, or None.
    """
    if mode in _TO_RGB:
        return _TO_RGB[mode](samples, white)
    colours = samples[..., : 1 if samples.shape[2] < 3 else 3]
    if mode in ("LA", "RGBA"):
        return colours * (samples[..., -1:] / white)
    return colours if hidden is None else colours * (samples != hidden).any(2, keepdims=True)


def _rgb_of_cmyk(samples: Floats, white: int) -> Floats:
    """The RGB of CMYK, where each ink filters the light. As in Pillow, no colour profile is applied."""
    return (white - samples[..., :3]) * (white - samples[..., 3:]) / white


def _rgb_of_ycbcr(samples: Floats, white: int) -> Floats:
    """The RGB of JFIF's YCbCr, in 8 bits."""
    luma, blue, red = samples[..., 0], samples[..., 1] - 128, samples[..., 2] - 128
    rgb = luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue
    return np.stack(rgb, axis=-1).clip(0, white)


# Linear sRGB from XYZ, adapted from white D50 to white D65 (Bradford).
_RGB_OF_XYZ = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ],
    np.float32,
)
_D50 = np.array([0.9642, 1.0, 0.8249], np.float32)


def _rgb_of_lab(samples: Floats, white: int) -> Floats:
    """The sRGB of CIELAB with white D50, in 8 bits; a* and b* are signed. Colours outside sRGB are clipped."""
    a, b = ((samples[..., channel] + 128) % 256 - 128 for channel in (1, 2))
    y = (samples[..., 0] * (100 / 255) + 16) / 116
    roots = np.stack((y + a / 500, y, y - b / 200), axis=-1)
    xyz = _D50 * np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * (3 * (6 / 29) ** 2))
    linear = (xyz @ _RGB_OF_XYZ.T).clip(0, 1)
    return white * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


_TO_RGB: dict[str, Callable[[Floats, int], Floats]] = {
    "CMYK": _rgb_of_cmyk,
    "YCbCr": _rgb_of_ycbcr,
    "LAB": _rgb_of_lab,
}

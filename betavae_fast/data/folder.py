"""A folder of image files."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from .errors import DatasetError
from .images import ByteImages
from .progress import progress_bar

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
DEFAULT_SIZE = 64

_GRAY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "F"})
_THREADS = 8  # decoding runs outside the interpreter's lock


def load_folder(
    folder: Path, *, image_size: int | None = None, channels: int | None = None, progress: bool = True
) -> ByteImages:
    """Decodes every image below a folder: uint8 (B, C, S, S), ordered by path.

    Each is turned upright as its EXIF data say, cut to its central square, and resized to S by bicubic
    interpolation. Files with other suffixes and hidden files are left out; of an animation the first frame is
    taken. All pixels are kept in memory (N·C·S² bytes). For a set that is slow to decode, save them once as a
    uint8 .npy array.

    Args:
        image_size: S, 64 by default.
        channels: 1 for grayscale, 3 for RGB; by default what the first image has.
    Raises: DatasetError if there is no image or one cannot be decoded; ValueError if an argument makes no
        sense.
    """
    size = DEFAULT_SIZE if image_size is None else image_size
    paths = list_images(folder)
    if not paths:
        raise DatasetError(f"{folder}: no images in this folder (looked for {', '.join(sorted(SUFFIXES))})")
    if channels is None:
        channels = 1 if _mode(paths[0]) in _GRAY_MODES else 3
    if channels not in (1, 3):
        raise ValueError(f"{folder}: channels must be 1 (grayscale) or 3 (RGB), got {channels}")
    store = np.empty((len(paths), channels, size, size), np.uint8)
    with (
        progress_bar(f"Decoding {folder.name}", len(paths), enabled=progress) as advance,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        for row, pixels in zip(store, pool.map(_decode, paths, repeat(size), repeat(channels)), strict=True):
            row[...] = pixels
            advance(1)
    return ByteImages(str(folder), torch.from_numpy(store), (channels, size, size))


def list_images(folder: Path) -> list[Path]:
    """Every image file below a folder, hidden ones aside, sorted by path below it."""
    found = [
        Path(parent, name).relative_to(folder)
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    ]
    return [folder / path for path in sorted(found) if not any(part.startswith(".") for part in path.parts)]


def _mode(path: Path) -> str:
    with _open(path) as image:
        mode: str = image.mode
    return mode


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except Exception as error:  # Pillow's readers raise OSError, ValueError and more for damaged headers
        raise DatasetError(f"{path}: cannot be opened as an image: {error}") from error


def _check(path: Path) -> None:
    """Compares the checksums of a PNG, which decoding its pixels does not look at."""
    with _open(path) as image:
        try:
            image.verify()
        except Exception as error:  # as above
            raise DatasetError(f"{path}: damaged image: {error}") from error


def _decode(path: Path, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """One image as uint8 (channels, size, size)."""
    _check(path)
    with _open(path) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16-bit grayscale: Pillow's own conversion would clip it at 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            upright = upright.convert("L" if channels == 1 else "RGB")
            square = ImageOps.fit(upright, (size, size), method=Image.Resampling.BICUBIC)
            pixels = np.asarray(square, dtype=np.uint8).reshape(size, size, channels)
        except Exception as error:
            # Pillow's decoders raise OSError, SyntaxError, ValueError and more for damaged files.
            raise DatasetError(f"{path}: damaged image: {error}") from error
    return np.moveaxis(pixels, 2, 0)

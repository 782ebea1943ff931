"""Reads one image file as a square of 8-bit pixels: upright, composed onto black, cut and resized."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from .errors import UnusableImageError
from .image_colours import Floats, over_black
from .image_samples import DEEP, ImageSamples, check_tiff, raw_mode, read_samples

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NO_PICTURES = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MCIDAS", "MPEG", "WMF"})
"""Formats that Pillow registers but that are not read: measurements (BUFR, FITS, GRIB, HDF5, McIDAS), a container of
news (IPTC), video (MPEG, which Pillow only identifies), and drawings that need another program (EPS, WMF)."""

_GRAY = DEEP | {"1", "L", "LA", "La", "F"}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in Pillow's conversion to L

_LARGE = 1 << 24  # pixels
_large_images = threading.Lock()  # held while a large image is decoded: several at once could take gigabytes


def readable_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the formats that are read, including those of Pillow's plugins."""
    formats = set(_formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def has_colour(path: str) -> bool:
    """True if a file's header declares colour, by its mode or by a visible palette entry that is not grey.

    Raises: UnusableImageError.
    """
    with _reasons(), open(path, "rb") as file, _open(file) as image:
        if image.mode not in ("P", "PA"):
            return image.mode not in _GRAY and raw_mode(image) != "LA;16B"
        if image.palette is None:
            image.load()
        assert image.palette is not None
        image.palette.dirty = 1  # makes `entries` load the palette
        entries = Image.new("P", (256, 1))
        entries.putdata(range(256))
        entries.palette, entries.info = image.palette, image.info
        red, green, blue, alpha = np.moveaxis(np.asarray(entries.convert("RGBA")), 2, 0)
        return bool((((red != green) | (green != blue)) & (alpha > 0)).any())


def read_image(path: str, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """Read the central square of an image and resize it: uint8 (channels, size, size).

    The pixels are computed in floating point and rounded once. Pillow's own resizing of 8-bit images rounds and clips
    between its two passes, which changes pixels beside sharp edges by up to 20 of 255.

    Args:
        channels: 1 for grayscale (the luma of colours), 3 for RGB.
    Raises: UnusableImageError.
    """
    with _reasons():
        # Pass the content and not the path: Pillow would map uncompressed files into memory, and map a rotated TIFF with
        # its sides swapped.
        content = Path(path).read_bytes()
        with (
            _open_intact(BytesIO(content)) as image,
            _large_images if image.width * image.height > _LARGE else nullcontext(),
        ):
            samples = read_samples(image, content)
            pixels = _resized(samples, size) * np.float32(255 / samples.white)
    if channels == 1 and len(pixels) == 3:
        pixels = np.tensordot(_LUMA, pixels, 1)[None]
    return np.broadcast_to(np.rint(pixels.clip(0, 255)).astype(np.uint8), (channels, size, size))


def resize_all(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Resize the central squares of images (n, H, W, C) as `read_image` does: uint8 (n, C, size, size)."""
    count, height, width, channels = images.shape
    side = min(height, width)
    rows, down = _bicubic(height, side, size)
    columns, across = _bicubic(width, side, size)
    resized = np.empty((count, channels, size, size), np.uint8)
    for image, pixels in zip(images, resized, strict=True):  # several at a time leave the CPU's cache
        window = image[rows, columns].astype(np.float32)
        pixels[:] = np.rint(_weighted(window, down, across).clip(0, 255))
    return resized


def _formats() -> list[str]:
    """The formats that are read, in the order in which they are tried."""
    Image.init()
    return ["JPEG", "PNG", *(name for name in Image.ID if name not in NO_PICTURES)]


def _open(file: IO[bytes]) -> ImageFile.ImageFile:
    """Open an image and read its header."""
    image = Image.open(file, formats=_formats())
    if image.format == "TIFF":
        check_tiff(image)
    return image


def _open_intact(file: BytesIO) -> ImageFile.ImageFile:
    """Open an image. If it is a PNG, compare its checksums first, because decoding ignores them."""
    image = _open(file)
    if image.format != "PNG":
        return image
    image.verify()
    return _open(file)


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn any exception that Pillow raises for a file into the reason for refusing the file."""
    try:
        yield
    except UnusableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnusableImageError(
            "not an image of a kind that Pillow reads, or its header is damaged"
        ) from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnusableImageError(
            f"more than {limit:,} pixels, which Pillow takes for a decompression bomb; make it smaller"
        ) from error
    except Exception as error:
        told = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise UnusableImageError(f"damaged image: {' '.join(told.split())}") from error


def _resized(samples: ImageSamples, size: int) -> Floats:
    """Cut the central square of an image, compose it onto black and resize it: (C, size, size)."""
    height, width, _ = samples.values.shape
    side = min(height, width)
    rows, down = _bicubic(height, side, size)
    columns, across = _bicubic(width, side, size)
    window = samples.values[rows, columns].astype(np.float32)
    window = over_black(window, samples.mode, samples.white, samples.hidden)
    return _weighted(window, down, across)


def _weighted(window: Floats, down: csr_array, across: csr_array) -> Floats:
    """Resize a window (H, W, C) of an image by the weights of its rows and columns: (C, size, size)."""
    size = down.shape[0]
    _, width, channels = window.shape
    lower = (down @ window.reshape(-1, width * channels)).reshape(size, width, channels)
    both: Floats = across @ lower.transpose(1, 0, 2).reshape(width, size * channels)
    return both.reshape(size, size, channels).transpose(2, 1, 0)


@lru_cache(maxsize=256)
def _bicubic(length: int, side: int, size: int) -> tuple[slice, csr_array]:
    """The input samples and their weights that resize the central ``side`` of ``length`` samples to ``size``.

    The weights are those of Pillow's bicubic filter: Keys' kernel with a = −1/2, widened if the image shrinks. It uses
    samples beyond the edges of the central part.
    """
    from scipy.sparse import csr_array

    scale = side / size
    stretch = max(scale, 1.0)
    centres = (length - side) / 2 + (np.arange(size) + 0.5) * scale
    first = max(0, int(centres[0] - 2 * stretch))
    last = min(length, int(centres[-1] + 2 * stretch) + 1)
    distance = np.abs(np.arange(first, last) + 0.5 - centres[:, None]) / stretch
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    weights /= weights.sum(1, keepdims=True)
    return slice(first, last), csr_array(weights.astype(np.float32))

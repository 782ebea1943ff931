"""Reads one image file as a square of 8-bit pixels: upright, composed onto black, cut and resized."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFile, ImageOps, ImagePalette, UnidentifiedImageError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Samples = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]

NO_PICTURES = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MCIDAS", "MPEG", "WMF"})
"""Formats that Pillow registers and that are not read: measurements (BUFR, FITS, GRIB, HDF5, McIDAS), a container of
news (IPTC), video (MPEG, which Pillow only identifies), and drawings that need another program (EPS, WMF)."""

_DEEP = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})  # Pillow's integers of more than 8 bits
_GRAY = frozenset({"1", "L", "LA", "La", "F"}) | _DEEP
_READ = _GRAY | {"RGB", "RGBA", "RGBa"}
_CONVERTED = dict.fromkeys(("P", "PA"), "RGBA") | dict.fromkeys(
    ("RGBX", "CMYK", "YCbCr", "LAB", "HSV"), "RGB"
)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in Pillow's conversion to L

# Tags of TIFF
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANAR, _COLOR_MAP, _SAMPLE_FORMAT = 258, 259, 262, 284, 320, 339
_SUBSAMPLING = 530

# What Pillow raises for EXIF data, reading them or writing them back.
_BROKEN_EXIF = SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error

_LARGE = 1 << 24  # pixels
_large_images = threading.Lock()  # held while one is decoded: several at once could take gigabytes


class UnusableImageError(Exception):
    """The reason why a file cannot be read as an image: one line, without the file's name."""


def readable_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the formats that are read, those of Pillow's plugins included."""
    formats = set(_formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def has_colour(path: str) -> bool:
    """Whether a file's header tells of colour: by its mode, or by a visible palette entry that is no grey.

    Raises: UnusableImageError.
    """
    with _reasons(), open(path, "rb") as file, _open(file) as image:
        if image.mode not in ("P", "PA"):
            return image.mode not in _GRAY and _stored(image) != "LA;16B"
        if image.palette is None:
            image.load()
        assert image.palette is not None
        image.palette.dirty = 1  # for `entries` to take it
        entries = Image.new("P", (256, 1))
        entries.putdata(range(256))
        entries.palette, entries.info = image.palette, image.info
        red, green, blue, alpha = np.moveaxis(np.asarray(entries.convert("RGBA")), 2, 0)
        return bool((((red != green) | (green != blue)) & (alpha > 0)).any())


def read_image(path: str, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """The central square of an image, resized: uint8 (channels, size, size).

    Computed in floating point and rounded once. Pillow's own resizing of 8-bit images rounds and clips between its
    two passes, which moves pixels beside sharp edges by up to 20 of 255.

    Args:
        channels: 1 for grayscale (the luma of colours), 3 for RGB.
    Raises: UnusableImageError.
    """
    with (
        _reasons(),
        # Given a path, Pillow maps uncompressed files into memory, and a rotated TIFF with its sides swapped.
        _open_intact(BytesIO(Path(path).read_bytes())) as image,
        _large_images if image.width * image.height > _LARGE else nullcontext(),
    ):
        colours, opacity, white = _samples(image)
        pixels = _resized(colours, opacity, size) * np.float32(255 / white)
    if channels == 1 and len(pixels) == 3:
        pixels = np.tensordot(_LUMA, pixels, 1)[None]
    return np.broadcast_to(np.rint(pixels.clip(0, 255)).astype(np.uint8), (channels, size, size))


def _formats() -> list[str]:
    """The formats that are read, in the order in which to try them."""
    Image.init()
    return ["JPEG", "PNG", *(name for name in Image.ID if name not in NO_PICTURES)]


def _open(file: IO[bytes]) -> ImageFile.ImageFile:
    """An image of which the header has been read."""
    image = Image.open(file, formats=_formats())
    if image.format == "TIFF":
        _check_tiff(image)
    return image


def _open_intact(file: BytesIO) -> ImageFile.ImageFile:
    """An image, of a PNG after its checksums have been compared, which decoding does not look at."""
    image = _open(file)
    if image.format != "PNG":
        return image
    image.verify()
    return _open(file)


@contextmanager
def _reasons() -> Iterator[None]:
    """Turns what Pillow raises for a file, which may be any exception, into the reason for refusing the file."""
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


def _check_tiff(image: ImageFile.ImageFile) -> None:
    """Refuses the layouts that Pillow reads as noise, and takes a palette of 8 bits for one, as libtiff does."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    if image.mode in ("RGB", "RGBA", "CMYK") and _depth(image)[0] > 8 and tags.get(_PLANAR) == 2:
        raise UnusableImageError(
            "a 16-bit TIFF with a plane for each channel; save it with interleaved channels"
        )
    if image.mode == "YCbCr" and tags.get(_SUBSAMPLING, (2, 2)) != (1, 1):
        raise UnusableImageError("an uncompressed TIFF with subsampled colours; save it as RGB")
    if image.mode == "F" and tags.prefix == b"MM" and tags.get(_COMPRESSION, 1) != 1:
        raise UnusableImageError("a compressed floating-point TIFF in big-endian order; save it uncompressed")
    if image.mode in ("P", "PA") and max(tags[_COLOR_MAP]) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[_COLOR_MAP]))


def _depth(image: ImageFile.ImageFile) -> tuple[int, bool]:
    """The bits of a sample as the file stores it, and whether they have a sign. To be asked before decoding."""
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        return tags.get(_BITS, (1,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if image.format == "JPEG2000":
        content = image.fp.getvalue()  # type: ignore[union-attr]
        first_component = content[content.index(b"\xff\x4f\xff\x51") + 42]  # Ssiz, in the first segment
        return (first_component & 127) + 1, False
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # whose 16 bits Pillow holds in 32
        return 32, True
    return 16 if image.mode in _DEEP else 8, False


def _samples(image: ImageFile.ImageFile) -> tuple[Samples, Floats | None, int]:
    """An image, upright: its colours (H, W, 1 or 3), the opacity of each pixel (H, W) from 0 to 1 or None if all are
    opaque, and the value of white."""
    hidden, (bits, signed) = _hidden_value(image), _depth(image)
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    image.load()
    with suppress(*_BROKEN_EXIF):  # turns nothing
        ImageOps.exif_transpose(image, in_place=True)
    mode = _CONVERTED.get(image.mode, image.mode)
    values: Samples = np.asarray(image if mode == image.mode else _converted(image, mode))
    _check_range(values, mode, bits, signed)
    if mode == "F" or mode == "1":
        white = 1
    elif image.format == "JPEG2000":  # Pillow moves the bits to the top of 8 or 16
        full = 65535 if mode in _DEEP else 255
        white = full - (full >> bits)
    else:
        white = (1 << bits) - 1 if mode in _DEEP else 255
    if white_is_zero and (mode == "F" or mode in _DEEP):  # Pillow has done it in the other modes
        values = white - values
    values = values.reshape(*values.shape[:2], -1)
    opacity: Floats | None = None
    if mode in ("LA", "RGBA"):
        opacity = values[..., -1] / np.float32(white)
    elif hidden is not None:
        opacity = (values != hidden).any(2).astype(np.float32)
    return values[..., : 1 if values.shape[2] < 3 else 3], opacity, white


def _check_range(values: Samples, mode: str, bits: int, signed: bool) -> None:
    """Refuses pixels of which nothing says which value is white.

    That follows from the file's depth and never from its pixels, so that all files of a set are scaled alike.
    """
    if mode not in _READ:
        raise UnusableImageError(f"pixels of Pillow's mode {mode}; save it as grayscale or RGB")
    if mode == "F" and not ((values >= 0) & (values <= 1)).all():  # written so that NaN fails too
        found = "NaN" if np.isnan(values).any() else f"{values.min():g} to {values.max():g}"
        raise UnusableImageError(
            f"floating-point pixels must lie in [0, 1], found {found}; divide them by white, or save 8-bit integers"
        )
    if mode != "F" and (signed or (mode in _DEEP and bits > 16)):
        values = values.view(f"{'i' if signed else 'u'}{values.itemsize}")
        raise UnusableImageError(
            f"{'signed' if signed else 'unsigned'} {bits}-bit integers, found {values.min()} to {values.max()}: nothing "
            "says which value is white; save 8-bit or unsigned 16-bit integers"
        )


def _hidden_value(image: ImageFile.ImageFile) -> int | tuple[int, ...] | None:
    """The value whose pixels are transparent in an image without alpha, or None. To be asked before decoding."""
    value: Any = image.info.get("transparency")
    if value is None or not (image.mode in ("1", "L", "RGB") or image.mode in _DEEP):
        return None
    stored = _stored(image)
    if stored == "RGB;16B":
        raise UnusableImageError(
            "one of its 16-bit colours is transparent, and Pillow keeps 8 bits; save it with alpha"
        )
    if image.mode == "1":
        return int(value > 0)
    # Pillow spreads 2 or 4 bits over 8, but leaves the transparent value as stored.
    step = 85 if stored == "L;2" else 17 if stored == "L;4" else 1
    return value * step if step > 1 and value <= 255 // step else value


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode != "LAB":
        return image.convert(mode)
    # What Pillow's conversion does too, but that one interpolates in a coarse table and is off by up to 50 of 255.
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    exact = ImageCms.buildTransform(*profiles, "LAB", mode, flags=ImageCms.Flags.NOOPTIMIZE)
    return exact.apply(image)


def _stored(image: ImageFile.ImageFile) -> object:
    """How a PNG stores samples, in Pillow's terms."""
    return image.tile[0][3] if image.format == "PNG" and image.tile else None


def _resized(colours: Samples, opacity: Floats | None, size: int) -> Floats:
    """The central square of an image, composed onto black and resized: (C, size, size)."""
    height, width, channels = colours.shape
    side = min(height, width)
    rows, down = _bicubic(height, side, size)
    columns, across = _bicubic(width, side, size)
    window = colours[rows, columns].astype(np.float32)
    if opacity is not None:
        window *= opacity[rows, columns, None]
    width = window.shape[1]
    lower = (down @ window.reshape(-1, width * channels)).reshape(size, width, channels)
    both: Floats = across @ lower.transpose(1, 0, 2).reshape(width, size * channels)
    return both.reshape(size, size, channels).transpose(2, 1, 0)


@lru_cache(maxsize=256)
def _bicubic(length: int, side: int, size: int) -> tuple[slice, csr_array]:
    """The samples, and their weights, that ``size`` samples of the central ``side`` of ``length`` are made of.

    The weights are those of Pillow's bicubic filter: Keys' kernel with a = −1/2, stretched where it shrinks. It looks
    past the edges of the central part.
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

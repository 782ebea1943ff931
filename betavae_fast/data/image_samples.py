"""Reads the samples of an image through Pillow with all bits that the file stores, or refuses the file."""

from __future__ import annotations

import struct
import sys
from contextlib import suppress
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, ImagePalette

from .errors import UnusableImageError

Samples = npt.NDArray[Any]

DEEP = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow's grey modes with integers of more than 8 bits."""

_READ = DEEP | {"1", "L", "LA", "La", "F", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"}

# Pillow keeps the first byte of 16-bit colours. If the byte order is declared the other way round, it keeps the second.
_OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}

# Bits of channels that Pillow scales to 8 bits by a division that rounds down.
_FEW_BITS = {"BGR;15": (5, 5, 5), "BGR;16": (5, 6, 5), "BGRA;15Z": (5, 5, 5, 1)}

# TIFF tags.
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANAR, _COLOR_MAP, _EXTRA, _SAMPLE_FORMAT = (
    258,
    259,
    262,
    284,
    320,
    338,
    339,
)
_SUBSAMPLING = 530
_YCBCR = 6  # a value of _PHOTOMETRIC

# Exceptions that Pillow raises for EXIF data when it reads them or writes them back.
_BROKEN_EXIF = SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error


class ImageSamples(NamedTuple):
    """The samples of an image, turned upright.

    Attributes:
        values: (H, W, channels).
        mode: meaning of the samples, as a mode of Pillow: in RGBa, alpha is already multiplied into the colours, and the
            fourth channel of RGBX has no meaning.
        white: the value of white, and of full opacity.
        hidden: the value whose pixels are transparent, or None.
    """

    values: Samples
    mode: str
    white: int
    hidden: int | tuple[int, ...] | None


def raw_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's name for the form in which the file stores its samples. It is only known before decoding."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def check_tiff(image: ImageFile.ImageFile) -> None:
    """Refuse the layouts that Pillow reads as noise, and read palettes of 8-bit values as such, as libtiff does."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    deep, premultiplied = tags.get(_BITS, (1,))[0] > 8, tags.get(_EXTRA, (0,))[0] == 1
    if image.mode in ("RGB", "RGBA", "CMYK") and tags.get(_PLANAR) == 2 and (deep or premultiplied):
        raise UnusableImageError(
            "a TIFF with a plane for each channel, and 16 bits or premultiplied colours; save it with interleaved "
            "channels"
        )
    if tags.get(_PHOTOMETRIC) == _YCBCR and tags.get(_COMPRESSION, 1) == 1 and image.mode != "L":
        if image.mode == "RGB":  # before Pillow 13
            raise UnusableImageError(
                "an uncompressed TIFF in YCbCr, which Pillow takes for RGB; save it as RGB"
            )
        if tags.get(_SUBSAMPLING, (2, 2)) != (1, 1):
            raise UnusableImageError("an uncompressed TIFF with subsampled colours; save it as RGB")
    if image.mode == "F" and tags.prefix == b"MM" and tags.get(_COMPRESSION, 1) != 1:
        raise UnusableImageError("a compressed floating-point TIFF in big-endian order; save it uncompressed")
    if image.mode in ("P", "PA") and max(tags[_COLOR_MAP]) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[_COLOR_MAP]))


def read_samples(image: ImageFile.ImageFile, content: bytes) -> ImageSamples:
    """Decode an image whose header has been read.

    Args:
        content: content of the file.
    Raises: UnusableImageError if Pillow loses bits, or if the file does not say which value is white.
    """
    hidden, few_bits, (bits, signed) = _hidden_value(image), _few_bits(image), _depth(image, content)
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    _check_palette_of_pcx(image, content)
    if image.format == "PPM" and image.tile[0][0].startswith("ppm") and image.mode != "1":
        values, white = _samples_of_pnm(image, content)
        _check_range(values, image.mode, bits, signed)
        return ImageSamples(values, image.mode, white, None)
    mode = _meaning(image, content)
    values = _decoded(image, mode, content)
    _check_range(values, mode, bits, signed)
    if few_bits:
        largest = (1 << np.array(few_bits)) - 1
        values = values[..., : len(few_bits)].astype(np.int32)
        values = -(-values * largest // 255) * (255 / largest)  # rounding up undoes Pillow's rounding down
    white = _white(image, mode, bits)
    if white_is_zero and (mode == "F" or mode in DEEP):  # Pillow inverts the other modes itself
        values = white - values
    return ImageSamples(values, mode, white, hidden)


def _decoded(image: ImageFile.ImageFile, mode: str, content: bytes) -> Samples:
    """The samples as (H, W, channels of ``mode``), turned upright."""
    stored = raw_mode(image)
    if stored == "LA;16B":  # Pillow decodes this to four channels of 8 bits
        _decode_as(image, "RGBA")  # keeps all four bytes
        return _upright(image).view(">u2")
    if image.format in ("PNG", "TIFF") and image.mode not in DEEP and ";16" in stored:
        return _both_bytes(image, content)
    if mode == "RGBa":  # keeps Pillow from dividing by alpha
        _decode_as(image, stored.replace("RGBa", "RGBA"))
    return _upright(image)


def _upright(image: ImageFile.ImageFile) -> Samples:
    """The samples that Pillow decodes, (H, W, channels), turned as the EXIF data say; palette colours become RGBA."""
    image.load()
    with suppress(*_BROKEN_EXIF):  # an image with broken EXIF data is not turned
        ImageOps.exif_transpose(image, in_place=True)
    values = np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image)
    return values.reshape(*values.shape[:2], -1)


def _white(image: ImageFile.ImageFile, mode: str, bits: int) -> int:
    """The value of white among decoded samples."""
    if mode in ("F", "1"):
        return 1
    if image.format == "JPEG2000":  # Pillow shifts the bits to the top of 8 or 16
        full = 65535 if mode in DEEP else 255
        return full - (full >> bits)
    return (1 << bits) - 1 if bits > 8 or mode in DEEP else 255


def _decode_as(image: ImageFile.ImageFile, stored: str) -> None:
    """Make Pillow decode the file's samples in another form than they declare."""
    image.tile = [
        tile._replace(args=(stored, *tile.args[1:]) if isinstance(tile.args, tuple) else stored)
        for tile in image.tile
    ]


def _both_bytes(image: ImageFile.ImageFile, content: bytes) -> Samples:
    """The 16 bits of each channel. Pillow keeps only 8, so decode twice, once for each byte."""
    stored = raw_mode(image).replace("RGBa", "RGBA")
    again = Image.open(BytesIO(content), formats=[str(image.format)])
    assert isinstance(again, ImageFile.ImageFile)
    _decode_as(image, stored)
    _decode_as(again, stored[:-4] + _OTHER_BYTE[stored[-4:]])
    return _upright(image).astype(np.uint16) << 8 | _upright(again)


def _samples_of_pnm(image: ImageFile.ImageFile, content: bytes) -> tuple[Samples, int]:
    """The samples of a PNM file and its value of white.

    Pillow scales samples by the white value and rounds them to 8 bits, or to 16 if they are grey and white is above 255.
    Binary samples are read from the file instead, those written as text with the scaling undone.
    """
    decoder, _, start, arguments = image.tile[0]
    assert isinstance(arguments, tuple)
    white = int(arguments[1])
    channels = len(image.getbands())
    if decoder == "ppm":
        dtype = np.dtype(np.uint8 if white < 256 else ">u2")
        stored = np.frombuffer(content, dtype, image.height * image.width * channels, start)
        return np.minimum(stored, white).reshape(image.height, image.width, channels), white
    if channels > 1 and white > 255:
        header = f"P2 {channels * image.width} {image.height} {white}\n"
        scaled = np.asarray(Image.open(BytesIO(header.encode() + content[start:]), formats=["PPM"]))
    else:
        scaled = np.asarray(image)
    full = 255 if scaled.dtype == np.uint8 else 65535
    return np.rint(scaled * (white / full)).reshape(image.height, image.width, channels), white


def _depth(image: ImageFile.ImageFile, content: bytes) -> tuple[int, bool]:
    """The number of bits of a stored sample, and True if it is signed. They are only known before decoding."""
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        return tags.get(_BITS, (1,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if image.format == "JPEG2000":
        return _depth_of_jpeg2000(image, content), False
    if image.format == "SGI":
        return 8 * content[3], False
    # In PNG and PPM, mode I has 16 bits, which Pillow holds in 32.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        return 32, True
    return 16 if image.mode in DEEP or raw_mode(image).endswith(";16B") else 8, False


def _depth_of_jpeg2000(image: ImageFile.ImageFile, content: bytes) -> int:
    first = content.index(b"\xff\x4f\xff\x51") + 42  # the depth of the first channel, in the first segment
    channels = int.from_bytes(content[first - 2 : first], "big")
    depths = {(depth & 127) + 1 for depth in content[first : first + 3 * channels : 3]}
    if len(depths) > 1:
        raise UnusableImageError("channels of different depths; save all in 8 bits")
    (bits,) = depths
    if image.mode in ("P", "PA") and bits < 8:
        raise UnusableImageError(
            f"a palette whose indices have {bits} bits, which Pillow reads as 8; save it as PNG"
        )
    return bits


def _few_bits(image: ImageFile.ImageFile) -> tuple[int, ...] | None:
    """The bits of each channel if they are fewer than 8 and Pillow rounds down. They are only known before decoding."""
    if image.format == "DDS" and image.tile and image.tile[0][0] == "dds_rgb":
        masks: Any = image.tile[0][3]
        bits = tuple(mask.bit_count() for mask in masks[1])
        if max(bits) > 8:
            raise UnusableImageError(_lost_bits(max(bits)))
        return bits if 0 not in bits and min(bits) < 8 else None
    stored = raw_mode(image) if image.palette is None else image.palette.rawmode
    return _FEW_BITS.get(stored or "")


def _meaning(image: ImageFile.ImageFile, content: bytes) -> str:
    """The true mode of an image's samples, which is not always the mode that Pillow gives."""
    stored = raw_mode(image)
    if stored == "LA;16B":
        return "LA"
    if image.format == "TIFF" and stored.startswith("RGBa"):
        return "RGBa"
    if image.format == "TGA" and image.mode in ("RGBA", "LA"):
        return _meaning_of_tga(image.mode, content)
    return "RGBA" if image.mode in ("P", "PA") else image.mode


def _meaning_of_tga(mode: str, content: bytes) -> str:
    """The mode of TGA pixels with one more channel than colours, which Pillow always takes for opacity.

    The header gives the number of opacity bits of a pixel. The file's extension area says whether opacity is already
    multiplied into the colours.
    """
    if content[17] & 15 == 0:
        if mode == "LA":
            raise UnusableImageError("a grey TGA of 16 bits that declares no opacity; save it as PNG")
        return "RGBX"
    extension = int.from_bytes(content[-26:-22], "little") if content.endswith(b"TRUEVISION-XFILE.\0") else 0
    premultiplied = extension > 0 and content[extension + 494 : extension + 495] == b"\4"
    return mode.replace("A", "a") if premultiplied else mode


def _check_palette_of_pcx(image: ImageFile.ImageFile, content: bytes) -> None:
    """Refuse a PCX of 256 colours that is cut off inside the palette at its end, which Pillow would read as grey.

    A file that declares its pixels grey needs no palette.
    """
    if image.format != "PCX" or raw_mode(image) not in ("L", "P"):
        return
    if image.mode == "L" and content[68] == 2:
        return
    _, _, at, arguments = image.tile[0]
    assert isinstance(arguments, tuple)
    missing = image.height * int(arguments[1])
    # Pixels are stored as runs: either a byte 0xC0 + length and then the pixel, or a single pixel below 0xC0.
    while missing > 0 and at < len(content):
        missing -= max(content[at] - 0xC0, 0) if content[at] >= 0xC0 else 1
        at += 2 if content[at] >= 0xC0 else 1
    if len(content) < at + 769:
        raise UnusableImageError("damaged image: its palette is cut off")


def _check_range(values: Samples, mode: str, bits: int, signed: bool) -> None:
    """Refuse pixels whose value of white is unknown, or whose lower bits Pillow loses.

    White follows from the file's depth and never from its pixels, so that all files of a set are scaled alike.
    """
    if mode not in _READ:
        raise UnusableImageError(f"pixels of Pillow's mode {mode}; save it as grayscale or RGB")
    if mode == "F" and not ((values >= 0) & (values <= 1)).all():  # written so that NaN fails too
        found = "NaN" if np.isnan(values).any() else f"{values.min():g} to {values.max():g}"
        raise UnusableImageError(
            f"floating-point pixels must lie in [0, 1], found {found}; divide them by white, or save 8-bit integers"
        )
    if mode != "F" and (signed or (mode in DEEP and bits > 16)):
        values = values.view(f"{'i' if signed else 'u'}{values.itemsize}")
        raise UnusableImageError(
            f"{'signed' if signed else 'unsigned'} {bits}-bit integers, found {values.min()} to {values.max()}: nothing "
            "says which value is white; save 8-bit or unsigned 16-bit integers"
        )
    if bits > 8 and values.dtype == np.uint8:
        raise UnusableImageError(_lost_bits(bits))


def _lost_bits(bits: int) -> str:
    return f"{bits} bits per channel, of which Pillow keeps only 8; save it as PNG or TIFF"


def _hidden_value(image: ImageFile.ImageFile) -> int | tuple[int, ...] | None:
    """The value whose pixels are transparent in an image without alpha, or None. It is only known before decoding."""
    value: Any = image.info.get("transparency")
    if value is None or not (image.mode in ("1", "L", "RGB") or image.mode in DEEP):
        return None
    if image.mode == "1":
        return int(value > 0)
    # Pillow scales 2 or 4 bits to 8, but leaves the transparent value as stored.
    step = {"L;2": 85, "L;4": 17}.get(raw_mode(image), 1)
    return value * step if step > 1 and value <= 255 // step else value

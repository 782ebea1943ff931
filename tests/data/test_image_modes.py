"""Files of every mode, format, depth and size that Pillow reads: each is read correctly or refused by name.

The expectation shares no code with the loader. It is computed in float64 from the samples that were written or, where a
file does not hold them (JPEG, AVIF, lossy WebP), from those that Pillow decodes. Only the resizing is Pillow's, on
floating-point images, which clips nothing on the way.

``python -m tests.data.test_image_modes 3000`` runs as many examples and counts the outcomes.
"""

from __future__ import annotations

import struct
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from betavae_fast.data import DatasetError, load_dataset

from .image_writers import bmp, dds, exif, png, pnm, tga, tiff

ORIENTATION = 0x0112
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}
READS_ALL = int(PIL.__version__.partition(".")[0]) >= 13  # earlier versions read fewer kinds of TIFF
ROUNDING = 0.501  # error of the one rounding to 8 bits, and of float32


@dataclass
class Picture:
    """A file and its expected reading.

    Attributes:
        content: the bytes of the file; `suffix` is the suffix of its name.
        truth: the stored pixels, (H, W, 1 or 3) from 0 to 255, composed onto black; None if the file must be refused.
        refused: the text of the refusal.
        coloured: whether the file's header declares colour.
        decoded: whether the truth is what Pillow decodes, instead of what was written.
        orientation: the EXIF orientation by which the image is turned.
    """

    content: bytes
    suffix: str
    truth: np.ndarray | None = None
    refused: str = ""
    coloured: bool | None = None
    decoded: bool = False
    orientation: int = 1


@dataclass
class Source:
    """The source of a picture's size and samples."""

    height: int
    width: int
    orientation: int
    content: str
    seed: int
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def samples(self, channels: int, top: int = 255) -> np.ndarray:
        """Draw (H, W, C) whole numbers from 0 to `top`."""
        shape = self.height, self.width, channels
        if self.content == "extremes":
            return self.rng.integers(0, 2, shape) * top
        if self.content == "ramp":
            slope = np.linspace(0, top, self.height)[:, None, None] + np.linspace(0, top, self.width)[:, None]
            return np.rint(slope / 2 * np.ones(channels)).astype(np.int64)
        if self.content == "flat":
            return np.ones(shape, np.int64) * self.rng.integers(0, top + 1, channels)
        return self.rng.integers(0, top + 1, shape)

    def pick(self, *options: Any) -> Any:
        return options[self.rng.integers(len(options))]


def over_black(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Compose colours on a scale of 255 onto black, with opacity from 0 to 1."""
    return colours.astype(np.float64) * alpha


def rgb_of_cmyk(samples: np.ndarray) -> np.ndarray:
    return (255.0 - samples[..., :3]) * (255.0 - samples[..., 3:]) / 255


def rgb_of_ycbcr(samples: np.ndarray) -> np.ndarray:
    y, cb, cr = (samples[..., channel] - offset for channel, offset in enumerate((0.0, 128.0, 128.0)))
    rgb = (y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb)
    return np.stack(rgb, axis=-1).clip(0, 255)


def rgb_of_lab(samples: np.ndarray) -> np.ndarray:
    """Convert CIELAB in 8 bits (a* and b* signed) for D50 to sRGB. Colours outside sRGB are clipped."""
    lightness, a, b = samples[..., 0] * 100 / 255, *np.moveaxis((samples[..., 1:] + 128) % 256 - 128.0, 2, 0)
    fy = (lightness + 16) / 116
    f = np.stack((fy + a / 500, fy, fy - b / 200), axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1.0, 0.8249)
    to_srgb = (
        (3.1338561, -1.6168667, -0.4906146),
        (-0.9787684, 1.9161415, 0.0334540),
        (0.0719453, -0.2289914, 1.4052427),
    )
    linear = (xyz @ np.array(to_srgb).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


def saved(image: Image.Image, source: Source, suffix: str, **options: Any) -> Picture:
    """The file that Pillow writes, with an orientation and other metadata where the format has them."""
    orientation = 1
    if suffix in (".png", ".apng", ".webp", ".tif", ".jpg", ".avif"):
        orientation = source.orientation
        if orientation > 1 or source.pick(True, False):
            tags = Image.Exif()
            tags[ORIENTATION] = orientation
            tags[0x010E] = "a picture"
            options["exif"] = tags
        options["dpi"] = (source.pick(72, 300),) * 2
        if source.pick(True, False):
            options["icc_profile"] = b"an unknown colour space"
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, f"a{suffix}")
        image.save(path, **options)
        return Picture(path.read_bytes(), suffix, orientation=orientation)


def as_image(samples: np.ndarray, mode: str) -> Image.Image:
    """Make an image of this mode from (H, W, C) samples of 8 bits, without a conversion."""
    height, width, _ = samples.shape
    return Image.frombytes(mode, (width, height), samples.astype(np.uint8).tobytes())


def as_decoded(picture: Picture) -> np.ndarray:
    """The truth of a file whose only samples are those that its decoder makes."""
    with Image.open(BytesIO(picture.content)) as image:
        image.load()
        samples = np.asarray(image).reshape(image.height, image.width, -1)
        mode = image.mode
    if mode == "CMYK":
        return rgb_of_cmyk(samples)
    return over_black(samples[..., :3], samples[..., 3:] / 255) if mode == "RGBA" else samples


# Files that Pillow writes without loss.

LOSSLESS = {
    ".apng": ("1", "L", "LA", "P", "RGB", "RGBA"),
    ".blp": ("P",),
    ".bmp": ("1", "L", "P", "RGB"),
    ".dds": ("L", "LA", "RGB", "RGBA"),
    ".dib": ("1", "L", "P", "RGB"),
    ".gif": ("L", "P"),
    ".ico": ("L", "RGB", "RGBA"),
    ".im": ("1", "L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"),
    ".j2k": ("L", "LA", "RGB", "RGBA"),
    ".jp2": ("L", "LA", "RGB", "RGBA"),
    ".msp": ("1",),
    ".pbm": ("1",),
    ".pcx": ("1", "L", "P", "RGB"),
    ".pgm": ("L",),
    ".png": ("1", "L", "LA", "P", "RGB", "RGBA"),
    ".ppm": ("RGB",),
    ".qoi": ("RGB", "RGBA"),
    ".sgi": ("L", "RGB", "RGBA"),
    ".tga": ("L", "LA", "P", "RGB", "RGBA"),
    ".tif": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"),
    ".webp": ("RGB", "RGBA"),
    ".xbm": ("1",),
}
OPTIONS: dict[str, Callable[[Source], dict[str, Any]]] = {
    ".png": lambda source: {"optimize": source.pick(True, False), "compress_level": source.pick(0, 1, 9)},
    ".tif": lambda source: {"compression": source.pick("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")},
    ".tga": lambda source: {"compression": source.pick(None, "tga_rle")},
    ".gif": lambda source: {"interlace": source.pick(0, 1), "optimize": False},
    ".webp": lambda source: {"lossless": True, "exact": source.pick(True, False)},
}


def pillow_lossless(source: Source) -> Picture:
    suffix = source.pick(*LOSSLESS)
    mode = source.pick(*LOSSLESS[suffix])
    options = OPTIONS.get(suffix, lambda _: {})(source)
    if suffix == ".ico":
        options = {"sizes": [(source.width, source.height)]}
        if mode == "RGBA":  # for other modes Pillow writes a mask without padding
            options["bitmap_format"] = source.pick("png", "bmp")
    if mode in ("P", "PA"):
        return pillow_palette(source, suffix, mode, options)
    samples = source.samples(1 if mode == "1" else Image.getmodebands(mode), 1 if mode == "1" else 255)
    image = Image.fromarray(samples[..., 0] > 0) if mode == "1" else as_image(samples, mode)
    picture = saved(image, source, suffix, **options)
    alpha = samples[..., -1:] / 255
    picture.truth = {
        "1": lambda: samples * 255.0,
        "LA": lambda: over_black(samples[..., :1], alpha),
        "RGBA": lambda: over_black(samples[..., :3], alpha),
        "CMYK": lambda: rgb_of_cmyk(samples),
        "YCbCr": lambda: rgb_of_ycbcr(samples),
        "LAB": lambda: rgb_of_lab(samples),
    }.get(mode, lambda: samples[..., : 1 if mode == "L" else 3])()
    picture.coloured = picture.truth.shape[2] == 3
    if suffix == ".tif" and mode == "YCbCr" and options["compression"] != "raw":
        # libtiff decodes it to RGB, and Pillow turns a TIFF upright.
        picture.truth, picture.decoded, picture.orientation = as_decoded(picture), True, 1
    return picture


def pillow_palette(source: Source, suffix: str, mode: str, options: dict[str, Any]) -> Picture:
    entries = source.rng.integers(0, 256, (256, 3))
    if source.pick(True, False):
        entries[:] = entries[:, :1]  # greys
    index = source.samples(1)
    alpha = np.ones((256, 1))
    image = as_image(index, "P")
    image.putpalette(entries.astype(np.uint8).tobytes())
    if mode == "PA":
        opacity = source.samples(1)
        image = Image.merge("LA", (as_image(index, "L"), as_image(opacity, "L")))
        image.putpalette(entries.astype(np.uint8).tobytes())
    elif suffix in (".png", ".apng", ".gif") and source.pick(True, False):
        hidden = int(source.rng.integers(256))
        alpha[hidden] = 0
        options["transparency"] = hidden
        if suffix != ".gif" and source.pick(True, False):
            several = source.rng.integers(0, 256, 256)
            alpha = several[:, None] / 255
            options["transparency"] = bytes(several.tolist())
    picture = saved(image, source, suffix, **options)
    opacity = opacity / 255 if mode == "PA" else alpha[index[..., 0]]
    picture.truth = over_black(entries[index[..., 0]], opacity)
    visible = (entries != entries[:, :1]).any(1) & (alpha[:, 0] > 0)
    picture.coloured = bool(visible.any()) or suffix == ".blp"  # Pillow opens BLP as RGB
    if not picture.coloured:
        picture.truth = picture.truth[..., :1]
    return picture


# Pixels of 16 bits and of floats, written by Pillow.


def pillow_deep(source: Source) -> Picture:
    suffix, mode = source.pick(
        (".png", "I;16"),
        (".tif", "I;16"),
        (".tif", "I;16B"),
        (".pgm", "I;16"),
        (".pgm", "I"),
        (".jp2", "I;16"),
        (".im", "I;16"),
        (".tif", "F"),
        (".pfm", "F"),
        (".im", "F"),
    )
    samples = source.samples(1, 65535)
    image = {
        "I;16": lambda: Image.fromarray(samples[..., 0].astype(np.uint16)),
        "I;16B": lambda: Image.frombytes("I;16B", samples.shape[1::-1], samples.astype(">u2").tobytes()),
        "I": lambda: Image.fromarray(samples[..., 0].astype(np.int32)),
        "F": lambda: Image.fromarray((samples[..., 0] / 65535).astype(np.float32)),
    }[mode]()
    picture = saved(image, source, suffix, **OPTIONS.get(suffix, lambda _: {})(source))
    picture.truth, picture.coloured = samples / 257, False
    return picture


# Files written byte by byte.


def raw_png(source: Source) -> Picture:
    kind, depth = source.pick(
        *(("gray", bits) for bits in (1, 2, 4, 8, 16)),
        *(("palette", bits) for bits in (1, 2, 4, 8)),
        *((kind, bits) for kind in ("gray and alpha", "RGB", "RGBA") for bits in (8, 16)),
    )
    top = (1 << depth) - 1
    channels = {"gray": 1, "palette": 1, "gray and alpha": 2, "RGB": 3, "RGBA": 4}[kind]
    samples = source.samples(channels, top)
    chunks = [(b"gAMA", (45455).to_bytes(4, "big"))] if source.pick(True, False) else []
    entries, alpha = source.rng.integers(0, 256, (top + 1, 3)), np.ones((*samples.shape[:2], 1))
    hidden: bytes | None = None
    if kind == "palette":
        chunks.append((b"PLTE", entries.astype(np.uint8).tobytes()))
        if source.pick(True, False):
            opacity = source.rng.integers(0, 256, top + 1)
            hidden, alpha = bytes(opacity.tolist()), opacity[samples[..., 0], None] / 255
    elif kind in ("gray", "RGB") and source.pick(True, False):
        value = samples[source.rng.integers(samples.shape[0]), source.rng.integers(samples.shape[1])]
        hidden, alpha = value.astype(">u2").tobytes(), (samples != value).any(2, keepdims=True) * 1.0
    if hidden is not None:
        chunks.append((b"tRNS", hidden))
    orientation = source.orientation if source.pick(True, False) else 1
    chunks += [(b"eXIf", exif(orientation))] if orientation > 1 else []
    content = png(samples.astype(np.uint16), depth, kind, interlace=source.pick(True, False), chunks=chunks)
    colours = samples[..., : 1 if channels < 3 else 3] / top * 255
    if kind == "palette":
        colours = entries[samples[..., 0]]
    if kind in ("gray and alpha", "RGBA"):
        alpha = samples[..., -1:] / top
    picture = Picture(content, ".png", over_black(colours, alpha), orientation=orientation)
    picture.coloured = channels >= 3 or kind == "palette"
    return picture


def raw_tiff(source: Source) -> Picture:
    order, deflate = source.pick("<", ">"), source.pick(True, False)
    kind = source.pick(
        "gray",
        "white is zero",
        "palette",
        "RGB",
        "RGBA",
        "RGBa",
        "LA",
        "La",
        "CMYK",
        "12 bits",
        "YCbCr",
        "float",
    )
    tags: dict[int, list[int]] = {ORIENTATION: [source.orientation]} if source.pick(True, False) else {}
    planar = kind in ("RGB", "RGBA", "CMYK") and source.pick(True, False)
    wide = kind in ("RGB", "RGBA", "RGBa", "CMYK") and not planar and source.pick(True, False)
    channels = {"LA": 2, "La": 2, "RGB": 3, "YCbCr": 3, "RGBA": 4, "RGBa": 4, "CMYK": 4}.get(kind, 1)
    bits = {
        "gray": source.pick(1, 2, 4, 8, 16),
        "white is zero": source.pick(1, 2, 4, 8, 16),
        "12 bits": 12,
    }.get(kind, 16 if wide else 8)
    if kind == "palette":
        bits = source.pick(1, 2, 4, 8)
    if bits == 12:
        order = "<"  # Pillow needs this order
    if bits == 16 and kind == "white is zero":
        order = "<"
    top = (1 << bits) - 1
    samples = source.samples(channels, top)
    photometric = {
        "white is zero": 0,
        "palette": 3,
        "CMYK": 5,
        "YCbCr": 6,
        "RGB": 2,
        "RGBA": 2,
        "RGBa": 2,
    }.get(kind, 1)
    scaled = samples / top * 255
    picture = Picture(b"", ".tif", orientation=tags.get(ORIENTATION, [1])[0], coloured=channels > 2)
    if kind == "palette":
        unit = source.pick(257, 1)  # some programs write 8 bits here, where TIFF has 16
        entries = source.rng.integers(0, 256, (top + 1, 3))
        entries[0] = 255, 0, 128
        tags[320] = (entries.T.reshape(-1) * unit).tolist()
        picture.truth, picture.coloured = entries[samples[..., 0]], True
    elif kind == "RGBA":
        tags[338] = [2]
        picture.truth = over_black(scaled[..., :3], samples[..., 3:] / top)
    elif kind == "RGBa":
        samples[..., :3] = samples[..., :3] * samples[..., 3:] // top
        tags[338] = [1]
        picture.truth = samples[..., :3] / top * 255
    elif kind in ("LA", "La"):
        tags[338] = [2 if kind == "LA" else 1]
        picture.truth = over_black(samples[..., :1], samples[..., 1:] / 255 if kind == "LA" else np.ones(1))
    elif kind == "CMYK":
        picture.truth = rgb_of_cmyk(scaled)
    elif kind == "YCbCr":
        deflate = False
        tags[530] = [1, 1]
        picture.truth = rgb_of_ycbcr(scaled)
    elif kind == "white is zero":
        picture.truth = 255 - scaled
    else:
        picture.truth = scaled
    stored = samples.astype(np.uint16 if bits > 8 else np.uint8)
    if kind == "float":
        bits, stored = 32, (samples / 255).astype(np.float32)
        if deflate and order == ">":
            picture.truth, picture.refused = None, "big-endian"
    picture.content = tiff(stored, bits, photometric, order=order, planar=planar, deflate=deflate, tags=tags)
    return picture


def raw_pnm(source: Source) -> Picture:
    channels, maximum, plain = (
        source.pick(1, 3),
        source.pick(1, 7, 100, 255, 256, 1000, 65535),
        source.pick(True, False),
    )
    samples = source.samples(channels, maximum)
    picture = Picture(
        pnm(samples, maximum, plain=plain), source.pick(".pnm", ".ppm", ".pgm"), samples / maximum * 255
    )
    picture.coloured = channels == 3
    return picture


def few_bits(source: Source) -> Picture:
    """Pixels of 16 bits for all channels, and TGA files, whose header says whether there is opacity."""
    kind, widths = source.pick(
        ("bmp", (5, 5, 5)),
        ("bmp", (5, 6, 5)),
        ("dds", (5, 6, 5)),
        ("dds", (4, 4, 4, 4)),
        ("dds", (10, 10, 10)),
        ("tga", (5, 5, 5, 1)),
        ("tga", (8, 8, 8, 8)),
        ("tga palette", (5, 5, 5, 1)),
    )
    tops = (1 << np.array(widths)) - 1
    samples = np.rint(source.samples(len(widths)) / 255 * tops).astype(np.int64)
    if kind == "tga palette":
        samples = np.rint(source.rng.random((256, len(widths))) * tops).astype(np.int64)
    # The bits of red are above those of green, which are above those of blue; opacity has the highest bits.
    shifts = np.array([widths[1] + widths[2], widths[2], 0, sum(widths[:3])])[: len(widths)]
    pixels = (samples << shifts).sum(-1).astype(np.uint16 if sum(widths) <= 16 else np.uint32)
    masks = (tops << shifts).tolist()
    colours, alpha = samples[..., :3] / tops[:3] * 255, samples[..., 3:] / tops[3:]
    if kind == "bmp":
        return Picture(bmp(pixels, masks), ".bmp", colours, coloured=True)
    if kind == "dds":
        truth = over_black(colours, alpha) if len(widths) == 4 else colours
        picture = Picture(dds(pixels, masks), ".dds", truth, coloured=True)
        if max(widths) > 8:
            picture.truth, picture.refused = None, "10 bits per channel"
        return picture
    if widths[3] == 1:
        alpha = 1 - alpha  # a set bit means transparent
    if kind == "tga palette":
        index = source.samples(1)[..., 0]
        content = tga(index.astype(np.uint8), 1, 0, pixels)
        return Picture(content, ".tga", over_black(colours, alpha)[index], coloured=True)
    declared, premultiplied = source.pick((0, False), (widths[3], False), (widths[3], True))
    content = tga(pixels, 2, declared)
    if premultiplied:
        content += bytes(494) + b"\4" + struct.pack("<II", len(content), 0) + b"TRUEVISION-XFILE.\0"
    truth = over_black(colours, alpha) if declared and not premultiplied else colours
    return Picture(content, ".tga", truth, coloured=True)


def refused(source: Source) -> Picture:
    """Pixels for which nothing defines white, or of which Pillow loses bits."""
    kind = source.pick(
        *("int8", "int16", "uint32", "int32", "over 1", "under 0", "NaN", "planes", "subsampled", "pillow I"),
        *("premultiplied planes", "SGI", "deep JPEG 2000", "uneven JPEG 2000", "grey TGA", "cut PCX"),
    )
    low, high = sorted(source.rng.integers(0, 100, 2).tolist())
    high = high + 2
    samples = source.samples(1, 1)
    samples[0, 0], samples[-1, -1] = 0, 1
    span = f"{low} to {high}"
    if kind in ("int8", "int16", "int32", "uint32"):
        stored = np.where(samples > 0, high, low).astype(kind)
        content = tiff(stored, 8 * stored.itemsize, 1, deflate=source.pick(True, False))
        return Picture(content, ".tif", refused=span if samples.size > 1 else "nothing says")
    if kind == "pillow I":
        stored = np.where(samples > 0, high, low).astype(np.int32)[..., 0]
        suffix = source.pick(".tif", ".im")
        picture = saved(Image.fromarray(stored), source, suffix)
        picture.refused = span if samples.size > 1 else "nothing says"
        return picture
    if kind in ("over 1", "under 0", "NaN"):
        value = {"over 1": 1.5, "under 0": -0.5, "NaN": np.nan}[kind]
        floats = samples.astype(np.float32)
        floats[-1, -1] = value
        picture = saved(Image.fromarray(floats[..., 0]), source, source.pick(".tif", ".pfm"))
        picture.refused = "NaN" if kind == "NaN" else f"{value:g}"
        return picture
    if kind == "planes":
        wide = source.samples(3, 65535).astype(np.uint16)
        return Picture(
            tiff(wide, 16, 2, planar=True, deflate=source.pick(True, False)), ".tif", refused="interleaved"
        )
    if kind == "premultiplied planes":
        content = tiff(source.samples(4).astype(np.uint8), 8, 2, planar=True, tags={338: [1]})
        return Picture(content, ".tif", refused="interleaved")
    if kind == "SGI":
        mode = source.pick("L", "RGB", "RGBA")
        picture = saved(as_image(source.samples(len(mode)), mode), source, ".sgi", bpc=2)
        picture.refused = "16 bits per channel"
        return picture
    if kind in ("deep JPEG 2000", "uneven JPEG 2000"):
        picture = saved(as_image(source.samples(3), "RGB"), source, ".j2k")
        depths = bytearray(picture.content)  # the first segment has three bytes for each channel
        depths[42:51:3] = b"\x0b\x0b\x0b" if kind == "deep JPEG 2000" else b"\x07\x05\x07"
        return Picture(
            bytes(depths),
            ".j2k",
            refused="12 bits per channel" if kind == "deep JPEG 2000" else "different depths",
        )
    if kind == "grey TGA":
        wide = source.samples(1, 65535)[..., 0].astype(np.uint16)
        return Picture(tga(wide, 3, 0), ".tga", refused="declares no opacity")
    if kind == "cut PCX":
        whole = pillow_palette(source, ".pcx", "P", {})
        return Picture(whole.content[: -source.rng.integers(1, 769)], ".pcx", refused="cut off")
    subsampled = source.samples(3).astype(np.uint8)
    return Picture(tiff(subsampled, 8, 6, tags={530: [2, 2]}), ".tif", refused="uncompressed TIFF")


def lossy(source: Source) -> Picture:
    """Files compressed with losses."""
    suffix, mode = source.pick(
        (".jpg", "L"),
        (".jpg", "RGB"),
        (".jpg", "CMYK"),
        (".avif", "RGB"),
        (".avif", "RGBA"),
        (".webp", "RGB"),
    )
    samples = source.samples(len(mode) if mode != "L" else 1)
    options = {"quality": 95}
    if suffix == ".jpg":
        options |= {"progressive": source.pick(True, False), "subsampling": 0}
    picture = saved(as_image(samples, mode), source, suffix, **options)
    picture.truth, picture.decoded, picture.coloured = as_decoded(picture), True, mode != "L"
    return picture


KINDS = (pillow_lossless, pillow_deep, raw_png, raw_tiff, raw_pnm, few_bits, refused, lossy)

SIDES = st.one_of(st.sampled_from([1, 2, 7, 8, 16]), st.integers(1, 90))
SOURCES = st.builds(
    Source,
    height=SIDES,
    width=SIDES,
    orientation=st.integers(1, 8),
    content=st.sampled_from(["noise", "extremes", "ramp", "flat"]),
    seed=st.integers(0, 2**32 - 1),
)
# The kinds with more variants are drawn twice as often.
CASES = st.tuples(
    st.sampled_from([*KINDS, pillow_lossless, pillow_lossless, raw_png, raw_tiff]),
    SOURCES,
    st.one_of(st.none(), st.integers(1, 100)),
    st.sampled_from([None, 1, 3]),
)


def expected(picture: Picture, size: int, channels: int) -> np.ndarray:
    """The expected reading of the picture, (C, S, S), not rounded."""
    assert picture.truth is not None
    upright = UPRIGHT[picture.orientation](picture.truth)
    planes = [
        Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in np.moveaxis(upright, 2, 0)
    ]
    fitted = np.stack(
        [np.asarray(ImageOps.fit(plane, (size, size), Image.Resampling.BICUBIC)) for plane in planes]
    )
    if channels == 1 and len(fitted) == 3:
        fitted = 0.299 * fitted[:1] + 0.587 * fitted[1:2] + 0.114 * fitted[2:]
    return np.broadcast_to(fitted.clip(0, 255), (channels, size, size))


def check(picture: Picture, size: int | None, channels: int | None) -> tuple[str, float]:
    """Load the picture and compare it. Return the outcome and the largest error (of 255)."""
    with TemporaryDirectory() as folder:
        path = Path(folder, f"a picture{picture.suffix}")
        path.write_bytes(picture.content)
        try:
            dataset = load_dataset(folder, image_size=size, channels=channels, progress=False)
        except DatasetError as error:
            assert picture.truth is None or not READS_ALL, error
            assert str(path) in str(error) and picture.refused in str(error) and "\n" not in str(error), error
            return "refused by name", 0.0
    assert picture.truth is not None, f"read, but {picture.refused}"
    assert dataset.image_shape == (channels or (3 if picture.coloured else 1), *(size or 64,) * 2)
    found = dataset.store[0].numpy()
    error = float(np.abs(found - expected(picture, size or 64, dataset.image_shape[0])).max())
    assert error <= ROUNDING, error
    return f"read as {'Pillow decodes it' if picture.decoded else 'written'}, and rounded once", error


def run(examples: int) -> tuple[Counter[str], dict[str, float]]:
    """Check so many files. Return their number and the largest error, by kind and outcome."""
    seen: dict[bytes, str] = {}
    errors: dict[str, float] = {}

    @settings(max_examples=examples, derandomize=True, deadline=None, database=None)
    @given(CASES)
    def each(case: tuple[Callable[[Source], Picture], Source, int | None, int | None]) -> None:
        kind, source, size, channels = case
        picture = kind(source)
        outcome, error = check(picture, size, channels)
        name = f"{kind.__name__}: {outcome}"
        seen[picture.content] = name
        errors[name] = max(error, errors.get(name, 0.0))

    each()
    return Counter(seen.values()), errors


def test_every_file_is_read_right_or_refused_by_name() -> None:
    counts, _ = run(300)
    assert {name.split(":")[0] for name in counts} == {kind.__name__ for kind in KINDS}


def test_the_reference_reading_of_lab_is_littlecms() -> None:
    samples = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    exact = ImageCms.buildTransform(*profiles, "LAB", "RGB", flags=ImageCms.Flags.NOOPTIMIZE)
    assert np.abs(np.asarray(exact.apply(as_image(samples, "LAB"))) - rgb_of_lab(samples)).max() < 1


def test_a_pcx_of_16_colours_has_its_palette_in_its_header(tmp_path: Path) -> None:
    index = np.random.default_rng(0).integers(0, 16, (8, 8))
    entries = np.random.default_rng(1).integers(0, 256, (16, 3), dtype=np.uint8)
    planes = [np.packbits((index >> bit & 1).astype(np.uint8), axis=1) for bit in range(4)]
    header = struct.pack("<4B6H", 10, 5, 1, 1, 0, 0, 7, 7, 72, 72) + entries.tobytes() + b"\0\4"
    runs = np.stack([np.full((8, 4), 0xC1, np.uint8), np.concatenate(planes, axis=1)], axis=2)
    (tmp_path / "a.pcx").write_bytes((header + struct.pack("<HH", 1, 1)).ljust(128, b"\0") + runs.tobytes())
    found = load_dataset(tmp_path, image_size=8, progress=False).store[0].numpy()
    assert np.array_equal(found, entries[index].transpose(2, 0, 1))


if __name__ == "__main__":
    counts, largest = run(int(sys.argv[1]))
    for name, count in sorted(counts.items()):
        print(f"{count:5} {name}, largest error {largest[name]:.3f} of 255")
    print(f"{counts.total():5} different files")

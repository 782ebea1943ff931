"""Writers of image files in every layout, byte by byte, because Pillow writes few of the layouts that it reads."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
PNG_COLOUR_TYPES = {"gray": 0, "RGB": 2, "palette": 3, "gray and alpha": 4, "RGBA": 6}
_SHORT, _LONG = 3, 4  # types of TIFF


def exif(orientation: int) -> bytes:
    """Make EXIF data that hold only an orientation."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, _SHORT, 1, orientation, 0, 0)


def png(
    samples: np.ndarray,
    depth: int,
    colour_type: str,
    *,
    interlace: bool,
    chunks: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """Make a PNG of (H, W, C) samples. `chunks` go before the pixels."""
    height, width, _ = samples.shape

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlace else [samples]
    rows = [b"\0" + packed(row, depth, ">") for part in passes if part.size for row in part]
    header = struct.pack(">IIBBBBB", width, height, depth, PNG_COLOUR_TYPES[colour_type], 0, 0, interlace)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def packed(samples: np.ndarray, bits: int, order: str) -> bytes:
    """Pack a row of samples into so many bits each, and fill the last byte with zeros."""
    if samples.dtype.kind == "u" and bits != 8 * samples.itemsize:
        each = (samples.reshape(-1, 1).astype(np.uint32) >> np.arange(bits - 1, -1, -1)) & 1
        return np.packbits(each.astype(np.uint8).reshape(-1)).tobytes()
    return samples.astype(samples.dtype.newbyteorder(order)).tobytes()


def tiff(
    samples: np.ndarray,
    bits: int,
    photometric: int,
    *,
    order: str = "<",
    planar: bool = False,
    deflate: bool = False,
    tags: Mapping[int, Sequence[int]] | None = None,
) -> bytes:
    """Make a TIFF of (H, W, C) samples, in one strip or one for each channel; the dtype marks floats and signs."""
    height, width, channels = samples.shape
    planes = [samples[..., channel] for channel in range(channels)] if planar else [samples]
    strips = [b"".join(packed(row, bits, order) for row in plane) for plane in planes]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    starts = np.cumsum([8, *map(len, strips)]).tolist()
    sample_format = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [bits] * channels),
        259: (_SHORT, [8 if deflate else 1]),
        262: (_SHORT, [photometric]),
        273: (_LONG, starts[:-1]),
        277: (_SHORT, [channels]),
        278: (_LONG, [height]),
        279: (_LONG, [len(strip) for strip in strips]),
        284: (_SHORT, [2 if planar else 1]),
        339: (_SHORT, [sample_format] * channels),
        **{tag: (_SHORT, values) for tag, values in (tags or {}).items()},
    }
    directory_at = starts[-1] + starts[-1] % 2
    far, far_at, directory = b"", directory_at + 2 + 12 * len(entries) + 4, b""
    for tag, (kind, values) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(values)}{'H' if kind == _SHORT else 'I'}", *values)
        if len(value) > 4:
            value, far = struct.pack(f"{order}I", far_at + len(far)), far + value
        directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", directory_at)
    count = struct.pack(f"{order}H", len(entries))
    return (head + b"".join(strips)).ljust(directory_at, b"\0") + count + directory + bytes(4) + far


def pnm(samples: np.ndarray, maximum: int, *, plain: bool) -> bytes:
    """Make a PGM or PPM of (H, W, 1 or 3) samples, in digits if ``plain``."""
    height, width, channels = samples.shape
    magic = {(1, True): 2, (3, True): 3, (1, False): 5, (3, False): 6}[channels, plain]
    header = f"P{magic}\n# {width}\n{width} {height}\n{maximum}\n".encode()
    if plain:
        return header + " ".join(map(str, samples.reshape(-1).tolist())).encode() + b"\n"
    return header + samples.astype(">u2" if maximum > 255 else "u1").tobytes()


def bmp(pixels: np.ndarray, masks: Sequence[int]) -> bytes:
    """Make a BMP of (H, W) pixels of 16 bits, whose colours are under three masks."""
    height, width = pixels.shape
    rows = [row.astype("<u2").tobytes() + bytes(2 * (width % 2)) for row in pixels[::-1]]
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3, 0, 0, 0, 0, 0) + struct.pack(
        "<3I", *masks
    )
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(info)) + info + b"".join(rows)


def dds(pixels: np.ndarray, masks: Sequence[int]) -> bytes:
    """Make a DDS of (H, W) unsigned pixels, whose channels are under three or four masks."""
    height, width = pixels.shape
    alpha = len(masks) == 4
    layout = struct.pack("<3I", 0x1 | 0x2 | 0x4 | 0x1000, height, width) + bytes(4 * 14)
    form = struct.pack("<8I", 32, 0x40 | alpha, 0, 8 * pixels.itemsize, *masks, *([] if alpha else [0]))
    header = struct.pack("<I", 124) + layout + form + struct.pack("<I", 0x1000) + bytes(16)
    return b"DDS " + header + pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()


def tga(pixels: np.ndarray, kind: int, opacity_bits: int, entries: np.ndarray | None = None) -> bytes:
    """Make a TGA of (H, W) unsigned pixels, the upper row first, with a palette of 16-bit entries if any.

    Args:
        kind: 1 with a palette, 2 with colours, 3 with greys.
    """
    height, width = pixels.shape
    palette = b"" if entries is None else entries.astype("<u2").tobytes()
    mapped = (0, 0, 0, 0) if entries is None else (1, 0, len(entries), 16)
    sizes = width, height, 8 * pixels.itemsize, 0x20 | opacity_bits
    header = struct.pack("<BBBHHBHHHHBB", 0, mapped[0], kind, *mapped[1:], 0, 0, *sizes)
    return header + palette + pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()

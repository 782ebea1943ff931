"""dSprites: 737,280 binary images of a square, an ellipse and a heart, all of whose factors are known.

Two functions return a `DSprites`. `rendered_dsprites` makes an *equivalent* of the published set, with the same factors,
order and geometry, but not exactly the published pixels (see `sprites`). `published_dsprites` reads the published file,
if you have it.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import sprites
from .bits import pack_bits
from .cache import cache_directory, load_or_build
from .errors import DatasetError
from .factors import GridFactors
from .images import BinaryImages
from .progress import progress_bar

PUBLISHED_NAME = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
PUBLISHED_BLOB_ID = "d98996d3f8ee1550e06b9d4ed78d0beb478910d5"
PUBLISHED_MEAN_PIXEL = 0.042494423521889584

FACTOR_NAMES = ("color", "shape", "scale", "orientation", "posX", "posY")
FACTOR_VALUES = tuple(
    torch.from_numpy(values)
    for values in (
        np.ones(1),
        np.array([1.0, 2.0, 3.0]),  # square, ellipse, heart, numbered as in the published file
        sprites.SCALES,
        sprites.ORIENTATIONS,
        sprites.POSITIONS,
        sprites.POSITIONS,
    )
)

_ROW_BYTES = sprites.SIZE * sprites.SIZE // 8
_ROWS_AT_ONCE = 4096


class DSprites(GridFactors, BinaryImages):
    """dSprites, bit-packed: `store` is uint8 (737280, 512), 377 MB. Images are bool (B, 1, 64, 64).

    The factors and their numbers of classes, slowest first: color 1, shape 3 (square, ellipse, heart), scale 6,
    orientation 40, posX 32, posY 32. Orientations 0 and 39 give the same image, because they are a full turn apart.
    """

    factor_names = FACTOR_NAMES
    factor_values = FACTOR_VALUES

    def __init__(self, name: str, store: Tensor) -> None:
        super().__init__(name, store, (1, sprites.SIZE, sprites.SIZE))


def rendered_dsprites(*, cache_dir: str | os.PathLike[str] | None = None, progress: bool = True) -> DSprites:
    """A dSprites-*equivalent* set, rendered on first use and cached; not the published file.

    The cache file is checked against its checksum on every load; a damaged file is named in a warning and made again.
    """
    # The number in the name goes up whenever the geometry changes, so that old shapes are not loaded from the cache.
    path = cache_directory(cache_dir) / "dsprites-rendered-2.bits"
    shape = (prod(map(len, FACTOR_VALUES)), _ROW_BYTES)
    return DSprites("dsprites", load_or_build(path, shape, lambda: sprites.render(progress=progress)))


def published_dsprites(
    path: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str] | None = None, progress: bool = True
) -> DSprites:
    """The published dSprites file, identified by its git blob id every time and unpacked once into the cache.

    Raises: DatasetError if the file is not the published one; OSError if it cannot be read.
    """
    path = Path(path)
    found = git_blob_id(path)
    if found != PUBLISHED_BLOB_ID:
        raise DatasetError(
            f"{path}: not the published dSprites file: its git blob id is {found}, the published file's is "
            f"{PUBLISHED_BLOB_ID}; download it again, or, to train on other images, save them alone as .npy"
        )
    shape = (prod(map(len, FACTOR_VALUES)), _ROW_BYTES)
    cached = cache_directory(cache_dir) / f"dsprites-published-{found[:12]}.bits"
    return DSprites(
        "dsprites-published",
        load_or_build(cached, shape, lambda: pack_published(path, FACTOR_VALUES, progress=progress)),
    )


def is_dsprites_archive(path: Path) -> bool:
    """True if an npz has the name of the published file, or its members imgs and latents_classes.

    It is then meant to be the published file, even if it is damaged.
    """
    if path.name == PUBLISHED_NAME:
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return {"imgs.npy", "latents_classes.npy"} <= set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def git_blob_id(path: Path) -> str:
    """The id that git gives to a file's content: the SHA-1 of "blob <size>", a zero byte and the content, in hex."""
    with open(path, "rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def pack_published(path: Path, factor_values: Sequence[Tensor], *, progress: bool) -> npt.NDArray[np.uint8]:
    """Pack the images of an npz with the layout of the published one.

    Only the plain arrays imgs, latents_classes and latents_values are read; the metadata member is a pickle and is not
    opened. The images are streamed, because unpacked they would take 3 GB.

    Returns: uint8 (N, 512), where N is the product of the sizes of `factor_values`.
    Raises: DatasetError unless the images are uint8 0 or 1, (N, 64, 64), and the latents enumerate
        `factor_values`.
    """
    tables = [values.numpy() for values in factor_values]
    count = prod(map(len, tables))
    classes = np.stack(np.unravel_index(np.arange(count), [len(table) for table in tables]), axis=1)
    values = np.stack([table[column] for table, column in zip(tables, classes.T, strict=True)], axis=1)
    try:
        with zipfile.ZipFile(path) as archive:
            if not np.array_equal(_read_member(archive, "latents_classes.npy"), classes):
                raise DatasetError(
                    f"{path}: latents_classes does not enumerate the factors in the published order"
                )
            if not np.allclose(_read_member(archive, "latents_values.npy"), values, rtol=0, atol=1e-6):
                raise DatasetError(f"{path}: latents_values does not hold the published factor values")
            with archive.open("imgs.npy") as file:
                return _pack_stream(file, count, path, progress=progress)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DatasetError(f"{path}: cannot be read as the dSprites archive: {error}") from error


def _read_member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[np.generic]:
    with archive.open(name) as file:
        member: npt.NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
    return member


def _pack_stream(file: IO[bytes], count: int, path: Path, *, progress: bool) -> npt.NDArray[np.uint8]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise DatasetError(f"{path}: imgs has npy version {version}, expected (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    expected = (count, sprites.SIZE, sprites.SIZE)
    if shape != expected or fortran or dtype != np.uint8:
        raise DatasetError(f"{path}: imgs must be uint8 of shape {expected}, got {dtype} of {shape}")
    packed = np.empty((count, _ROW_BYTES), np.uint8)
    pixels = sprites.SIZE * sprites.SIZE
    with progress_bar("Reading dSprites", count, enabled=progress) as advance:
        for start in range(0, count, _ROWS_AT_ONCE):
            rows = min(_ROWS_AT_ONCE, count - start)
            block = np.frombuffer(file.read(rows * pixels), np.uint8)
            if len(block) != rows * pixels:
                raise DatasetError(
                    f"{path}: imgs ends early, in image {start + len(block) // pixels} of {count}"
                )
            if block.max() > 1:
                raise DatasetError(f"{path}: imgs must hold only 0 and 1, got {block.max()}")
            packed[start : start + rows] = pack_bits(block.reshape(rows, pixels))
            advance(rows)
    return packed

"""smallNORB (LeCun, Huang and Bottou 2004) from its published binary matrices."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from .errors import DatasetError, memory_for, readable_as
from .folder import DEFAULT_SIZE
from .image_file import resize_all
from .images import ByteImages
from .labelled import FactorColumns, TableImages
from .progress import progress_bar

_DTYPES = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}
_BLOCK = 256  # images read at a time
_LARGEST_NDIM = 8

Matrix = npt.NDArray[Any]


@dataclass(frozen=True)
class NorbForm:
    """The parts of the set and the values of its factors; a part has every combination once.

    Attributes:
        parts: the instances of each part, by the name of its files.
        others: the values of the other factors.
        side: height and width of the stored images.
    """

    parts: Mapping[str, tuple[int, ...]]
    category: tuple[int, ...] = tuple(range(5))
    elevation: tuple[int, ...] = tuple(range(9))
    azimuth: tuple[int, ...] = tuple(range(0, 36, 2))
    lighting: tuple[int, ...] = tuple(range(6))
    side: int = 96

    def factors(self, part: str) -> dict[str, tuple[int, ...]]:
        """The values of each factor in a part, in the order of the factors."""
        return {
            "category": self.category,
            "instance": self.parts[part],
            "elevation": self.elevation,
            "azimuth": self.azimuth,
            "lighting": self.lighting,
        }


SMALL_NORB = NorbForm(
    {
        "smallnorb-5x46789x9x18x6x2x96x96-training": (4, 6, 7, 8, 9),
        "smallnorb-5x01235x9x18x6x2x96x96-testing": (0, 1, 2, 3, 5),
    }
)
"""The published form: 24,300 images in each part."""


def is_small_norb(folder: Path) -> bool:
    """True if a folder has one of the published files."""
    return bool(_parts(folder))


def load_small_norb(folder: Path, *, image_size: int | None = None, progress: bool = True) -> TableImages:
    """Read the published files …-dat.mat, …-cat.mat and …-info.mat, gzipped or not, of one part or both.

    The images are those of the first camera, resized as an image folder's: uint8 (N, 1, S, S), 48,600 with both parts,
    the training part first. The factors are category, instance, elevation, azimuth and lighting.

    Args:
        image_size: S, 64 by default.
    Raises: DatasetError, naming the file, if one is missing, damaged or of another form.
    """
    size = DEFAULT_SIZE if image_size is None else image_size
    parts = _parts(folder)
    labels = [_labels(folder, part) for part in parts]
    count = sum(map(len, labels))
    with memory_for(str(folder), count * size * size, "choose a smaller image_size (--image-size)"):
        store = np.empty((count, 1, size, size), np.uint8)
    start = 0
    with progress_bar("Reading smallNORB", count, enabled=progress) as advance:
        for part, of_part in zip(parts, labels, strict=True):
            path = _path(folder, part, "dat")
            shape = (len(of_part), 2, SMALL_NORB.side, SMALL_NORB.side)
            with readable_as("matrix", path), _opener(path)(path, "rb") as file:
                _check(path, file, np.dtype("u1"), shape)
                for first in range(0, len(of_part), _BLOCK):
                    last = min(first + _BLOCK, len(of_part))
                    pairs = _read(path, file, np.dtype("u1"), (last - first, *shape[1:]))
                    store[start + first : start + last] = resize_all(pairs[:, 0, :, :, None], size)
                    advance(last - first)
                _check_end(path, file)
            start += len(of_part)
    images = ByteImages(str(folder), torch.from_numpy(store), (1, size, size))
    return TableImages("smallnorb", images, _columns(np.concatenate(labels)))


def _parts(folder: Path) -> list[str]:
    """The parts of which a folder has a file."""
    kinds = ("dat", "cat", "info")
    return [part for part in SMALL_NORB.parts if any(_find(folder, part, kind) for kind in kinds)]


def _labels(folder: Path, part: str) -> Matrix:
    """The values of the five factors of a part, (N, 5)."""
    factors = SMALL_NORB.factors(part)
    count = prod(map(len, factors.values()))
    path, info = (_path(folder, part, kind) for kind in ("cat", "info"))
    values = np.column_stack([_matrix(path, (count,)), _matrix(info, (count, 4))])
    for (name, allowed), column in zip(factors.items(), values.T, strict=True):
        if (wrong := ~np.isin(column, allowed)).any():
            row = int(wrong.argmax())
            named = path if name == "category" else info
            raise DatasetError(
                f"{named}: {name} must be one of {', '.join(map(str, allowed))}, got {column[row]} for image {row}"
            )
    if len(np.unique(values, axis=0)) != count:
        raise DatasetError(f"{info}: must have each combination of factors once, together with {path.name}")
    return values


def _columns(values: Matrix) -> FactorColumns:
    """The values as classes, numbered from 0 among those present."""
    found = [np.unique(column, return_inverse=True) for column in values.T]
    return FactorColumns(
        tuple(SMALL_NORB.factors(next(iter(SMALL_NORB.parts)))),
        tuple(present.astype(np.float64) for present, _ in found),
        np.stack([classes.astype(np.int32) for _, classes in found], axis=1),
    )


def _matrix(path: Path, shape: tuple[int, ...]) -> Matrix:
    """The integers of a whole file, which must have this shape."""
    dtype = np.dtype("<i4")
    with readable_as("matrix", path), _opener(path)(path, "rb") as file:
        _check(path, file, dtype, shape)
        values = _read(path, file, dtype, shape)
        _check_end(path, file)
    return values


def _check(path: Path, file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Read the header: a magic number, the number of dimensions, and at least three sizes, little-endian int32 each."""
    magic, ndim = _header(path, file, 2)
    found = _DTYPES.get(magic)
    if found is None or not 0 <= ndim <= _LARGEST_NDIM:
        raise DatasetError(f"{path}: not a matrix of bytes or int32: it starts with {magic:#010x} and {ndim}")
    sizes = tuple(_header(path, file, max(3, ndim))[:ndim])
    if (found, sizes) != (dtype, shape):
        raise DatasetError(
            f"{path}: not the published file: must be {dtype} of shape {shape}, got {found} of {sizes}"
        )


def _header(path: Path, file: IO[bytes], count: int) -> list[int]:
    content = file.read(4 * count)
    if len(content) < 4 * count:
        raise DatasetError(f"{path}: damaged: it ends in its header")
    return np.frombuffer(content, "<i4").tolist()


def _read(path: Path, file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Matrix:
    content = file.read(prod(shape) * dtype.itemsize)
    if len(content) != prod(shape) * dtype.itemsize:
        raise DatasetError(f"{path}: damaged: it has less data than its header says")
    return np.frombuffer(content, dtype).reshape(shape)


def _check_end(path: Path, file: IO[bytes]) -> None:
    if file.read(1):
        raise DatasetError(f"{path}: damaged: it has more data than its header says")


def _path(folder: Path, part: str, kind: str) -> Path:
    """The file of a part. Raises: DatasetError if it is missing."""
    if (path := _find(folder, part, kind)) is None:
        raise DatasetError(f"{folder / f'{part}-{kind}.mat'}: is missing, with .gz and without")
    return path


def _find(folder: Path, part: str, kind: str) -> Path | None:
    """The file of a part, unpacked or gzipped; None if it is missing."""
    names = (f"{part}-{kind}.mat", f"{part}-{kind}.mat.gz")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _opener(path: Path) -> Any:
    return gzip.open if path.suffix == ".gz" else open

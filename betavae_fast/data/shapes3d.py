"""3D Shapes (Burgess and Kim 2018) from its published file, 3dshapes.h5."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import DiskImages
from .cache import cache_directory
from .errors import DatasetError, memory_for, readable_as
from .grid_form import GridForm, numbered
from .labelled import GridImages
from .unpacked import BLOCK_BYTES, Blocks, unpacked

SHAPES3D = GridForm(
    numbered(floor_hue=10, wall_hue=10, object_hue=10, scale=8, shape=4, orientation=15),
)
"""Factors and sizes of the published file. Their values are read from the file."""


def is_hdf5(path: Path) -> bool:
    """True if a file has the name of an HDF5 file."""
    return path.suffix in (".h5", ".hdf5")


def load_shapes3d(
    path: Path, *, cache_dir: str | os.PathLike[str] | None = None, progress: bool = True
) -> GridImages:
    """Read the published 3dshapes.h5: 480,000 images of 3×64×64 with six factors.

    The file is compressed by pieces of many images, so that single images cannot be read quickly. It is unpacked once
    into the cache folder (5.9 GB); then images are read from disk, batch by batch.

    Raises: DatasetError if the file is damaged or another one, if h5py is missing, or if the cache has no room.
    """
    shape = SHAPES3D.shape
    with _reading(path) as file:
        labels = _member(file, "labels", path)
        images = _member(file, "images", path)
        if images.shape != shape or images.dtype != np.uint8:
            raise DatasetError(
                f"{path}: not the published 3dshapes.h5: images must be uint8 of shape {shape}, got {images.dtype} of "
                f"{images.shape}"
            )
        if labels.shape != (shape[0], len(SHAPES3D.factors)) or labels.dtype.kind != "f":
            raise DatasetError(
                f"{path}: not the published 3dshapes.h5: labels must be floating point of shape "
                f"{(shape[0], len(SHAPES3D.factors))}, got {labels.dtype} of {labels.shape}"
            )
        values = _factor_values(labels[:], path)
    cached = cache_directory(cache_dir) / f"3dshapes-{_digest(path)[:12]}.npy"
    rows = unpacked(path, cached, shape, lambda: _blocks(path), progress=progress)
    return GridImages("3dshapes", DiskImages("3dshapes", rows, "NHWC", binary=False), values)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Open an HDF5 file, and name it in the errors within the block."""
    try:
        import h5py
    except ImportError as error:
        raise DatasetError(
            f"{path}: needs h5py, which is not installed: pip install h5py, or betavae_fast[data]"
        ) from error
    with readable_as("HDF5 file", path), h5py.File(path, "r") as file:
        yield file


def _member(file: Any, name: str, path: Path) -> Any:
    """The data set ``name`` of an HDF5 file."""
    found = file.get(name)
    if not hasattr(found, "dtype"):
        there = ", ".join(file) or "nothing"
        raise DatasetError(
            f"{path}: not the published 3dshapes.h5, the only supported HDF5 file: it has no array {name}, but {there}"
        )
    return found


def _factor_values(labels: npt.NDArray[np.float64], path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """The values of each factor in ``labels`` (N, K).

    Raises: DatasetError unless the labels enumerate all combinations of the published numbers of values, in order.
    """
    sizes = [len(values) for values in SHAPES3D.factors.values()]
    found = [np.unique(column).astype(np.float64) for column in labels.T]
    for name, size, values in zip(SHAPES3D.factors, sizes, found, strict=True):
        if len(values) != size:
            raise DatasetError(f"{path}: labels must have {size} values of {name}, got {len(values)}")
    classes = np.unravel_index(np.arange(len(labels)), sizes)
    for name, values, column, of_row in zip(SHAPES3D.factors, found, labels.T, classes, strict=True):
        if (wrong := values[of_row] != column).any():
            row = int(wrong.argmax())
            raise DatasetError(
                f"{path}: labels do not enumerate the factors in the published order: row {row} has {name} "
                f"{column[row]:g}, expected {values[of_row[row]]:g}"
            )
    return dict(zip(SHAPES3D.factors, found, strict=True))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _blocks(path: Path) -> Blocks:
    """The images in blocks of whole pieces as the file compresses them, so that none is decompressed twice."""
    with _reading(path) as file:
        images = file["images"]
        row_bytes = images.dtype.itemsize * int(np.prod(images.shape[1:]))
        of_piece = images.chunks[0] if images.chunks else 1
        step = of_piece * max(1, BLOCK_BYTES // (of_piece * row_bytes))
        with memory_for(str(path), step * row_bytes, "unpack it on a machine with more memory"):
            for start in range(0, len(images), step):
                yield images[start : start + step]

"""MPI3D (Gondal et al. 2019) from its published .npz files."""

from __future__ import annotations

import os
import zipfile
from math import prod
from pathlib import Path

import numpy as np

from .array_file import open_member, read_header
from .arrays import DiskImages
from .cache import cache_directory
from .errors import DatasetError, readable_as
from .grid_form import GridForm, numbered
from .labelled import GridImages
from .unpacked import BLOCK_BYTES, Blocks, unpacked

_OTHERS = {
    "object_size": 2,
    "camera_height": 3,
    "background_color": 3,
    "horizontal_axis": 40,
    "vertical_axis": 40,
}
_SIMPLE = GridForm(numbered(object_color=6, object_shape=6, **_OTHERS))
_COMPLEX = GridForm(numbered(object_color=4, object_shape=4, **_OTHERS))

FORMS = {
    "mpi3d_toy.npz": _SIMPLE,
    "mpi3d_realistic.npz": _SIMPLE,
    "mpi3d_real.npz": _SIMPLE,
    "real3d_complicated_shapes_ordered.npz": _COMPLEX,
}
"""The published files by their names."""

_MEMBER = "images.npy"


def mpi3d_form(path: Path) -> GridForm | None:
    """The form of an .npz of MPI3D, which has a published name or an array ``images`` of a published shape; else None."""
    if path.name in FORMS:
        return FORMS[path.name]
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_MEMBER) as file:
            header = read_header(file)
    except Exception:  # whoever loads it as another array says what is wrong with it
        return None
    return next((form for form in FORMS.values() if header == (form.shape, np.dtype(np.uint8))), None)


def load_mpi3d(
    path: Path, form: GridForm, *, cache_dir: str | os.PathLike[str] | None = None, progress: bool = True
) -> GridImages:
    """Read a published file of MPI3D, whose images of 3×64×64 have seven factors. Images stay on disk (12.7 GB).

    Images that the file stores uncompressed are read from it; compressed ones are unpacked once into the cache folder.

    Raises: DatasetError if the file is damaged or of another form, or if the cache has no room.
    """
    name = path.stem if path.name in FORMS else str(path)
    with readable_as("archive", path), zipfile.ZipFile(path) as archive:
        if _MEMBER not in archive.namelist():
            there = ", ".join(archive.namelist()) or "nothing"
            raise DatasetError(f"{path}: not the published file: it has no array images, but {there}")
        rows = open_member(path, archive, _MEMBER)
        info = archive.getinfo(_MEMBER)
        with archive.open(_MEMBER) as file:
            header = read_header(file)
        if header is None or header != (form.shape, np.dtype(np.uint8)):
            got = "another order of the pixels" if header is None else f"{header[1]} of {header[0]}"
            raise DatasetError(
                f"{path}: not the published file: images must be uint8 of shape {form.shape}, got {got}"
            )
    if rows is None:
        # The archive records the size and the CRC-32 of what it has compressed.
        cached = cache_directory(cache_dir) / f"mpi3d-{info.CRC:08x}-{info.file_size}.npy"
        rows = unpacked(path, cached, form.shape, lambda: _blocks(path, form), progress=progress)
    return GridImages(name, DiskImages(name, rows, "NHWC", binary=False), dict(form.factors))


def _blocks(path: Path, form: GridForm) -> Blocks:
    row_bytes = prod(form.image_shape)
    step = max(1, BLOCK_BYTES // row_bytes)
    with readable_as("archive", path), zipfile.ZipFile(path) as archive, archive.open(_MEMBER) as file:
        read_header(file)
        while content := file.read(step * row_bytes):
            if len(content) % row_bytes:
                raise DatasetError(f"{path}: damaged: it ends within an image")
            yield np.frombuffer(content, np.uint8).reshape(-1, *form.image_shape)

"""The attributes of CelebA (Liu et al. 2015) from its published list, beside its folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import DatasetError, readable_as
from .folder import FolderImages
from .labelled import FactorColumns, TableImages
from .named_rows import rows_of_files

_TEXT, _TABLE = "list_attr_celeba.txt", "list_attr_celeba.csv"
_CLASSES = {"-1": 0, "1": 1}


def is_celeba(folder: Path) -> bool:
    """True if a folder has the list of attributes."""
    return _list(folder) is not None


def open_celeba(
    folder: Path,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    factors: Path | None = None,
    progress: bool = True,
) -> TableImages:
    """Open a folder with list_attr_celeba.txt (or .csv) and the images, as `FolderImages` with 40 factors of two classes.

    The images are in img_align_celeba/, in another folder of this name inside that, or beside the list.

    Args:
        image_size, channels, factors, progress: as for `FolderImages`.
    Raises: DatasetError if the list is damaged, or if it names images that are not there, or not all that are; the errors
        of `FolderImages`.
    """
    path = _list(folder)
    assert path is not None, "is_celeba"
    files, names, classes = _read(path)
    inner = folder / "img_align_celeba"
    within = next((place for place in (inner / inner.name, inner) if place.is_dir()), folder)
    images = FolderImages(
        within, image_size=image_size, channels=channels, factors=factors, progress=progress
    )
    rows = rows_of_files(images.files, files, path, within)
    values = tuple(np.array([-1.0, 1.0]) for _ in names)
    return TableImages("celeba", images, FactorColumns(tuple(names), values, classes[rows]))


def _list(folder: Path) -> Path | None:
    return next((folder / name for name in (_TEXT, _TABLE) if (folder / name).is_file()), None)


def _read(path: Path) -> tuple[list[str], list[str], npt.NDArray[np.int32]]:
    """The files, the names of the attributes, and their classes (files, attributes)."""
    with readable_as("list of attributes", path):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    if path.name == _TEXT:
        if len(lines) < 2 or not lines[0].strip().isdecimal():
            raise DatasetError(f"{path}: its first line must be the number of images, got {lines[:1]}")
        count, names, first = int(lines[0]), lines[1].split(), 3
        table = [line.split() for line in lines[2:] if line.strip()]
    else:
        table = [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]
        names, first = table.pop(0)[1:] if table else [], 2
        count = len(table)
    if not names or not table:
        raise DatasetError(f"{path}: damaged: it names no attributes or no images")
    classes = np.empty((len(table), len(names)), np.int32)
    for row, (file, *cells) in enumerate(table):
        try:
            classes[row] = [_CLASSES[cell] for cell in cells]
        except (KeyError, ValueError):
            raise DatasetError(
                f"{path}: line {first + row} ({file}) must have -1 or 1 for each of {len(names)} attributes, got "
                f"{len(cells)} values: {' '.join(cells):.60}"
            ) from None
    if len(table) != count:
        raise DatasetError(f"{path}: its first line says {count} images, but it has {len(table)}")
    return [file for file, *_ in table], names, classes

"""Cars3D (Reed et al. 2015) from its published files, one for each car."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from .errors import DatasetError, memory_for, readable_as
from .folder import DEFAULT_SIZE
from .grid_form import numbered
from .image_file import resize_all
from .images import ByteImages
from .labelled import GridImages
from .progress import progress_bar

_LIST = "list.txt"  # the names of the files, which is published beside them


@dataclass(frozen=True)
class CarsForm:
    """The number of files, and the shape of the array ``im`` in each: [row, column, rgb, azimuth, elevation]."""

    objects: int = 183
    shape: tuple[int, int, int, int, int] = (128, 128, 3, 24, 4)


CARS3D = CarsForm()
"""The published form."""


def is_cars3d(folder: Path) -> bool:
    """True if a folder has nothing but .mat files, and perhaps list.txt."""
    return bool(_files(folder))


def load_cars3d(folder: Path, *, image_size: int | None = None, progress: bool = True) -> GridImages:
    """Read the published .mat files: 17,568 images, resized as an image folder's, uint8 (N, 3, S, S).

    The factors are object (183, in the order of the numbers in the files' names), azimuth (24) and elevation (4, varies
    fastest).

    Args:
        image_size: S, 64 by default.
    Raises: DatasetError, naming the file, if one is missing, damaged or of another form.
    """
    size = DEFAULT_SIZE if image_size is None else image_size
    files = _files(folder)
    if len(files) != CARS3D.objects:
        raise DatasetError(
            f"{folder}: Cars3D has {CARS3D.objects} .mat files, found {len(files)}, from {files[0].name} to "
            f"{files[-1].name}"
        )
    _, _, colours, azimuths, elevations = CARS3D.shape
    views = azimuths * elevations
    shape = (len(files) * views, colours, size, size)
    with memory_for(str(folder), int(np.prod(shape)), "choose a smaller image_size (--image-size)"):
        store = np.empty(shape, np.uint8)
    with progress_bar("Reading Cars3D", len(files), enabled=progress) as advance:
        for car, path in enumerate(files):
            store[car * views : (car + 1) * views] = resize_all(_images(path), size)
            advance(1)
    images = ByteImages(str(folder), torch.from_numpy(store), (colours, size, size))
    factors = numbered(object=len(files), azimuth=azimuths, elevation=elevations)
    return GridImages("cars3d", images, factors)


def _files(folder: Path) -> list[Path]:
    """The .mat files of a folder, in the order of the numbers in their names; none if it has other files than these and
    list.txt, or cannot be listed."""
    names: list[str] = []
    with suppress(OSError):
        names = [name for name in os.listdir(folder) if name != _LIST and not name.startswith(".")]
    if not all(name.endswith(".mat") for name in names):
        return []
    return [folder / name for name in sorted(names, key=_by_number)]


def _by_number(name: str) -> list[tuple[int, str]]:
    """The key of a name by which "car_9" comes before "car_10".

    >>> sorted(["car_10.mat", "car_9.mat", "bus.mat"], key=_by_number)
    ['bus.mat', 'car_9.mat', 'car_10.mat']
    """
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _images(path: Path) -> npt.NDArray[np.uint8]:
    """The images of a file, elevation fastest: (N, H, W, 3)."""
    from scipy.io import loadmat

    with readable_as("MATLAB file", path):
        found = loadmat(path, variable_names=["im"]).get("im")
    if found is None:
        raise DatasetError(f"{path}: not a file of Cars3D: it has no variable im")
    if found.shape != CARS3D.shape or found.dtype != np.uint8:
        raise DatasetError(
            f"{path}: not a file of Cars3D: im must be uint8 of shape {CARS3D.shape}, got {found.dtype} of {found.shape}"
        )
    return found.transpose(3, 4, 0, 1, 2).reshape(-1, *CARS3D.shape[:3])

"""Small files in exactly the published forms, and the tables of the forms that make the package expect them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from betavae_fast.data.cars3d import CarsForm
from betavae_fast.data.grid_form import GridForm, numbered
from betavae_fast.data.small_norb import NorbForm

SHAPES = GridForm(
    {
        "floor_hue": np.arange(2) / 10,
        "wall_hue": np.arange(2) / 10,
        "object_hue": np.arange(3) / 10,
        "scale": np.linspace(0.75, 1.25, 2),
        "shape": np.arange(2.0),
        "orientation": np.linspace(-30.0, 30.0, 3),
    }
)
MPI = GridForm(numbered(object_color=2, object_shape=3, object_size=2, horizontal_axis=4, vertical_axis=2))
NORB = NorbForm(
    {
        "smallnorb-5x46789x9x18x6x2x96x96-training": (4, 6),
        "smallnorb-5x01235x9x18x6x2x96x96-testing": (0, 1, 2),
    },
    category=(0, 1, 2),
    elevation=(0, 1),
    azimuth=(0, 2, 4),
    lighting=(0, 1),
    side=24,
)
CARS = CarsForm(objects=3, shape=(16, 16, 3, 4, 2))
ATTRIBUTES = ("5_o_Clock_Shadow", "Bald", "Wearing_Hat")


def pixels(form: GridForm, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, form.shape, dtype=np.uint8)


def labels(form: GridForm) -> np.ndarray:
    """The value of each factor of each image, (N, K)."""
    grid = np.meshgrid(*form.factors.values(), indexing="ij")
    return np.stack([values.ravel() for values in grid], axis=1)


def write_shapes(path: Path, **changes: np.ndarray) -> np.ndarray:
    """Write a 3dshapes.h5, compressed in pieces of 7 images; return its images."""
    h5py = pytest.importorskip("h5py")
    members = {"images": pixels(SHAPES), "labels": labels(SHAPES)} | changes
    with h5py.File(path, "w") as file:
        for name, array in members.items():
            pieces = (7, *(-(-size // 2) for size in array.shape[1:]))
            file.create_dataset(name, data=array, chunks=pieces, compression="gzip")
    return members["images"]


def write_mpi(path: Path, *, deflated: bool = False) -> np.ndarray:
    images = pixels(MPI)
    (np.savez_compressed if deflated else np.savez)(path, images=images)
    return images


def matrix(array: np.ndarray) -> bytes:
    """An array as one of smallNORB's binary matrices."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[array.dtype.name]
    sizes = [*array.shape, 1, 1][: max(3, array.ndim)]
    return np.array([magic, array.ndim, *sizes], "<i4").tobytes() + array.tobytes()


def write_norb(
    folder: Path, part: str, *, packed: bool = False, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Write the three files of a part, in no order; return the pixels of the first camera and the factors' values."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*NORB.factors(part).values(), indexing="ij")
    values = rng.permutation(np.stack([column.ravel() for column in grid], axis=1)).astype("<i4")
    images = rng.integers(0, 256, (len(values), 2, NORB.side, NORB.side), dtype=np.uint8)
    for kind, array in {"dat": images, "cat": values[:, 0], "info": values[:, 1:]}.items():
        content = matrix(np.ascontiguousarray(array))
        path = folder / f"{part}-{kind}.mat{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return images[:, 0], values


def write_cars(folder: Path, numbers: tuple[int, ...] = (1, 2, 10)) -> list[np.ndarray]:
    """Write a file for each car; return their arrays [row, column, rgb, azimuth, elevation]."""
    rng = np.random.default_rng(0)
    cars = [rng.integers(0, 256, CARS.shape, dtype=np.uint8) for _ in numbers]
    for number, car in zip(numbers, cars, strict=True):
        savemat(folder / f"car_{number:03d}.mesh.mat", {"im": car}, do_compression=True)
    return cars


def write_celeba(folder: Path, within: str = "img_align_celeba", *, table: bool = False) -> np.ndarray:
    """Write 12 images and their list of attributes; return the classes."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, (12, 3))
    (folder / within).mkdir(parents=True, exist_ok=True)
    names = [f"{number:06d}.jpg" for number in range(1, 13)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (22, 18, 3), dtype=np.uint8)).save(folder / within / name)
    values = [[str(2 * cell - 1) for cell in row] for row in classes]
    if table:
        rows = [",".join([name, *row]) for name, row in zip(names, values, strict=True)]
        text = "\n".join([",".join(["image_id", *ATTRIBUTES]), *rows])
        (folder / "list_attr_celeba.csv").write_text(text + "\n")
    else:
        rows = [
            f"{name} " + " ".join(cell.rjust(2) for cell in row)
            for name, row in zip(names, values, strict=True)
        ]
        text = "\n".join([str(len(names)), " ".join(ATTRIBUTES) + " ", *rows])
        (folder / "list_attr_celeba.txt").write_text(text + "\n")
    return classes

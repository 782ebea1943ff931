"""Loads any data set by its name or its path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .arrays import load_array
from .cars3d import is_cars3d, load_cars3d
from .celeba import is_celeba, open_celeba
from .dsprites import is_dsprites_archive, published_dsprites, rendered_dsprites
from .errors import DatasetError
from .factor_file import with_factors
from .folder import FolderImages
from .idx import SOURCES, find_images_file, is_images_file, load_idx, load_named_idx
from .images import ImageDataset
from .labelled import LabelledImages, unlabelled
from .mpi3d import load_mpi3d, mpi3d_form
from .shapes3d import is_hdf5, load_shapes3d
from .small_norb import is_small_norb, load_small_norb

NAMES = ("dsprites", *SOURCES)
"""Data sets known by name."""


def is_present(name_or_path: str | os.PathLike[str]) -> bool:
    """True for the name of a data set, or a path that exists."""
    return name_or_path in NAMES or os.path.exists(os.path.expanduser(name_or_path))


def absolute(name_or_path: str | os.PathLike[str]) -> str:
    """The name of a data set, or the absolute path of a file: both are valid in every working directory.

    >>> absolute("mnist")
    'mnist'
    """
    text = os.fspath(name_or_path)
    return text if text in NAMES else absolute_file(text)


def absolute_file(path: str | os.PathLike[str]) -> str:
    """The absolute path of a file, which is valid in every working directory."""
    return os.path.abspath(os.path.expanduser(os.fspath(path)))


def load_dataset(
    name_or_path: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    factors: str | os.PathLike[str] | None = None,
    progress: bool = True,
    check: Callable[[ImageDataset], None] = lambda dataset: None,
) -> ImageDataset:
    """Load a data set by name or by path. A name has priority over a file of that name; write ./name for the file.

    - "dsprites": 737,280 binary 64×64 images *equivalent* to dSprites, rendered on first use (seconds), then
      cached. It is not the published file; see `betavae_fast.data.sprites`.
    - the path of the published dsprites_ndarray_…_64x64.npz: that file, checked by its git blob id.
    - "mnist", "fashion-mnist": their 60,000 training images, found on this machine or downloaded.
    - the path of an idx3 file, whose name ends in images-idx3-ubyte or images.idx3-ubyte, with or without .gz, or of its
      folder: its images. Those of MNIST are 28×28, with a black border up to 32×32.
    - the path of 3dshapes.h5 (needs h5py) or of an .npz of MPI3D, as published: images on disk, with their factors.
    - the path of a folder with the published files of smallNORB or Cars3D, or with CelebA's list of attributes and its
      images: images resized to 64×64, with their factors.
    - the path of another folder: every image below it, cut square and resized to 64×64.
    - the path of an .npy or .npz file: an array of images, bool, uint8 or floating point in [0, 1].

    Args:
        cache_dir: folder for rendered, unpacked and downloaded files; by default $BETAVAE_FAST_CACHE,
            else betavae_fast in the user's cache folder.
        image_size: another size for folders (resized) and idx files (border).
        channels: 1 or 3, for folders: grayscale or RGB. By default a folder is RGB as soon as one image has colour.
        factors: a .csv, .npy or .npz file of the images' factors, as `betavae_fast.data.with_factors` reads it.
        progress: show a progress bar on stderr while rendering, unpacking, decoding or downloading.
        check: called with the data set before the images of a folder are decoded. What it raises ends the loading.
    Returns: an `ImageDataset`, which is also a `KnownFactors` if the factors are known.
    Raises: DatasetError (a ValueError), one line, if the data are missing, damaged or of no supported form;
        ValueError for an `image_size` or `channels` that is not valid for these data.
    """
    dataset = _open(os.fspath(name_or_path), cache_dir, image_size, channels, factors, progress)
    check(dataset)
    images = unlabelled(dataset)
    if not isinstance(images, FolderImages):
        return dataset
    decoded = images.in_memory(progress=progress)
    return dataset.replaced(decoded) if isinstance(dataset, LabelledImages) else decoded


def open_dataset(
    name_or_path: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    channels: int | None = None,
    factors: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> ImageDataset:
    """Open a data set to read it once: as `load_dataset`, but the images of a folder are decoded when they are read.

    So neither a folder nor an array has to fit into memory. A folder is a `FolderImages`, which knows its files; with
    known factors, it is the attribute `images` of the data set.
    """
    return _open(os.fspath(name_or_path), None, image_size, channels, factors, progress)


def _open(
    name: str,
    cache_dir: str | os.PathLike[str] | None,
    image_size: int | None,
    channels: int | None,
    factors: str | os.PathLike[str] | None,
    progress: bool,
) -> ImageDataset:
    if image_size is not None and image_size < 1:
        raise ValueError(f"load_dataset: image_size must be positive, got {image_size}")
    file = None if factors is None else Path(os.path.expanduser(factors))
    dataset = _find(name, cache_dir, image_size, channels, file, progress)
    for option, wanted, found in (
        ("image_size", image_size, dataset.image_shape[1:]),
        ("channels", channels, dataset.image_shape[:1]),
    ):
        if wanted is not None and set(found) != {wanted}:
            raise ValueError(
                f"{dataset.name}: {option} cannot be {wanted}, these images are {dataset.image_shape}"
            )
    return dataset if file is None else with_factors(dataset, file)


def _find(
    name: str,
    cache_dir: str | os.PathLike[str] | None,
    image_size: int | None,
    channels: int | None,
    factors: Path | None,
    progress: bool,
) -> ImageDataset:
    if name == "dsprites":
        return rendered_dsprites(cache_dir=cache_dir, progress=progress)
    if name in SOURCES:
        return load_named_idx(name, cache_dir=cache_dir, image_size=image_size, progress=progress)
    path = Path(os.path.expanduser(name))  # pathlib's own expansion raises if there is no home folder
    if path.is_dir():
        return _open_folder(path, image_size, channels, factors, progress)
    if not path.is_file():
        raise DatasetError(
            f"no data set or file named {name!r}: give {', '.join(NAMES)}, or the path of a file or folder"
        )
    if is_hdf5(path):
        return load_shapes3d(path, cache_dir=cache_dir, progress=progress)
    if path.suffix == ".npz" and is_dsprites_archive(path):
        return published_dsprites(path, cache_dir=cache_dir, progress=progress)
    if path.suffix == ".npz" and (form := mpi3d_form(path)) is not None:
        return load_mpi3d(path, form, cache_dir=cache_dir, progress=progress)
    if path.suffix in (".npy", ".npz"):
        return load_array(path, progress=progress)
    if is_images_file(path):
        return load_idx(path, image_size=image_size)
    raise DatasetError(
        f"{path}: not a supported form: expected a folder of images, an .npy or .npz array, 3dshapes.h5, "
        "the folder of the .mat files of smallNORB or Cars3D, "
        "or an idx file whose name ends in images-idx3-ubyte or images.idx3-ubyte, with .gz or without"
    )


def _open_folder(
    path: Path, image_size: int | None, channels: int | None, factors: Path | None, progress: bool
) -> ImageDataset:
    if images_file := find_images_file(path):
        return load_idx(images_file, image_size=image_size)
    if is_small_norb(path):
        return load_small_norb(path, image_size=image_size, progress=progress)
    if is_cars3d(path):
        return load_cars3d(path, image_size=image_size, progress=progress)
    opened = open_celeba if is_celeba(path) else FolderImages
    return opened(path, image_size=image_size, channels=channels, factors=factors, progress=progress)

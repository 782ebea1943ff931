"""A folder of image files."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import DatasetError, UnusableImageError, first_names, memory_for
from .idx import is_images_file
from .image_file import has_colour, read_image, readable_suffixes
from .images import ByteImages, ImageDataset, from_channels_last
from .progress import progress_bar

DEFAULT_SIZE = 64

# Twice the cores, because decoding releases the interpreter's lock and some threads wait for the disk.
_THREADS = min(8, 2 * (os.cpu_count() or 1))
_SUM_BLOCK = 1024  # images decoded at a time where all are read

Result = TypeVar("Result")


class FolderImages(ImageDataset):
    """Every image below a folder, uint8 (B, C, S, S), ordered by path, decoded when it is read.

    Each image is turned upright as its EXIF data say, composed onto black, cut to its central square, and resized to S by
    bicubic interpolation. An animation gives its first frame. Links are followed, and each folder is read once. Hidden
    files are left out. Files in formats that are not read and the folders of runs are left out, too, and a warning counts
    them. `in_memory` decodes all images once (N·C·S² bytes). If a set is slow to decode, save its pixels once as a uint8
    .npy array.

    `gather` raises DatasetError if some of its images cannot be read; it names them.

    Args:
        image_size: S, 64 by default.
        channels: 1 for grayscale, 3 for RGB. By default RGB if any image has colour; if others have none, a warning
            says so.
        factors: the file of the images' factors. Where it lies below the folder, it is not counted as left out.
    Attributes:
        files: path of each image's file below the folder, with "/" between its parts.
    Raises: DatasetError if there is no image; ValueError for an invalid argument.
    """

    _full_scale = 255

    def __init__(
        self,
        folder: Path,
        *,
        image_size: int | None = None,
        channels: int | None = None,
        factors: Path | None = None,
        progress: bool = True,
    ) -> None:
        self._images, shape = _listed(folder, image_size, channels, factors, progress)
        super().__init__(str(folder), shape)
        self._folder = folder
        self.files = [Path(os.path.relpath(image, folder)).as_posix() for image in self._images]

    def __len__(self) -> int:
        return len(self._images)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> ImageDataset:
        """This data set for the CPU; for another device, a copy of all images in that device's memory."""
        if torch.device(device).type == "cpu":
            return self
        return self.in_memory(progress=False).to(device)

    def in_memory(self, *, progress: bool = True) -> ByteImages:
        """All images, decoded once, in memory.

        Raises: DatasetError if some cannot be read (one error for all of them), or if they do not fit into memory.
        """
        store = _allocate(self._folder, (len(self), *self.image_shape))
        _decode(self._folder, self._images, store, progress)
        return ByteImages(self.name, torch.from_numpy(store), self.image_shape)

    def canonical_bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return np.ascontiguousarray(self._decoded(range(start, stop)))

    def _take(self, indices: Tensor) -> Tensor:
        return from_channels_last(torch.from_numpy(self._decoded(indices.tolist()).transpose(0, 2, 3, 1)))

    def _pixel_sums(self) -> Tensor:
        total = np.zeros(self.image_shape, np.int64)
        for start in range(0, len(self), _SUM_BLOCK):
            total += self._decoded(range(start, min(start + _SUM_BLOCK, len(self)))).sum(0, dtype=np.int64)
        return torch.from_numpy(total).flatten()

    def _decoded(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """The images at ``indices``, (n, C, H, W) in channels-last order."""
        store = _allocate(self._folder, (len(indices), *self.image_shape))
        _decode(self._folder, [self._images[index] for index in indices], store, progress=False)
        return store


def _listed(
    folder: Path, image_size: int | None, channels: int | None, factors: Path | None, progress: bool
) -> tuple[list[str], tuple[int, int, int]]:
    """The paths of the images below ``folder``, and the shape that they are decoded to.

    Raises: DatasetError if there is none; ValueError for an invalid argument.
    """
    size = DEFAULT_SIZE if image_size is None else image_size
    if size < 1:
        raise ValueError(f"{folder}: image_size must be positive, got {size}")
    if channels not in (None, 1, 3):
        raise ValueError(f"{folder}: channels must be 1 (grayscale) or 3 (RGB), got {channels}")
    listing = list_images(folder, factors)
    if not listing.images:
        raise DatasetError(_no_images(folder, listing))
    if left_out := listing.left_out():
        warnings.warn(f"{folder}: left out {left_out}", stacklevel=3)
    if channels is None:
        with _quiet_pillow():
            channels = _common_channels(folder, listing.images, progress)
    return listing.images, (channels, size, size)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings: images with a warning can still be read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@dataclass
class Listing:
    """The files below a folder.

    Attributes:
        images: paths of the image files, sorted by path below the folder.
        others: number of the other files, by suffix.
        runs: folders written by training runs, which were not searched.
    """

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    runs: list[str] = field(default_factory=list)

    def left_out(self) -> str:
        """The text for the files left out: ``12 files in unsupported formats (.txt 10, .mp4 2)``; "" if none."""
        parts = []
        if count := self.others.total():
            kinds = sorted(self.others.items(), key=lambda kind: (-kind[1], kind[0]))
            named = first_names([f"{suffix or 'no suffix'} {number:,}" for suffix, number in kinds])
            parts.append(f"{count:,} file{_plural(count)} in unsupported formats ({named})")
        if count := len(self.runs):
            parts.append(f"{count:,} run folder{_plural(count)} ({first_names(self.runs)})")
        return " and ".join(parts)


def list_images(folder: Path, factors: Path | None = None) -> Listing:
    """List the files below a folder, except hidden ones and the file ``factors``.

    Links are followed. Each real folder is entered once.

    Raises: DatasetError if a folder cannot be read.
    """
    listing, suffixes = Listing(), readable_suffixes()
    entered = set()
    pending = [os.fspath(folder)]
    while pending:
        here = pending.pop()
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            if here != os.fspath(folder) and is_run(here):
                listing.runs.append(os.path.relpath(here, folder))
                continue
            folders = []
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    suffix = os.path.splitext(entry.name)[1].lower()
                    if _is_folder(entry):
                        folders.append(entry.path)
                    elif suffix in suffixes and _is_file(entry):
                        listing.images.append(entry.path)
                    elif factors is None or not _is_same(entry.path, factors):
                        listing.others[suffix] += 1
        except OSError as error:
            raise DatasetError(f"{here}: cannot be listed: {error.strerror}") from error
        # Sorted, so that a folder reached by two paths gets the same path on every machine.
        pending += sorted(folders, reverse=True)
    # Compare paths part by part: a/b.png comes before a.png, because a < a.png.
    listing.images.sort(key=lambda path: path.replace(os.sep, "\0"))
    return listing


def is_run(folder: str | os.PathLike[str]) -> bool:
    """True for a folder written by a training run, whose pictures are not data."""
    return os.path.isfile(os.path.join(folder, "config.json")) and (
        os.path.isdir(os.path.join(folder, "checkpoint"))
        or os.path.isfile(os.path.join(folder, "metrics.jsonl"))
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_file(entry: os.DirEntry[str]) -> bool:
    """True for a file, but not for a pipe or a device. A broken link counts as a file, so that reading it reports it."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _is_same(path: str, file: Path) -> bool:
    """True if both are paths of one file. Its suffix is compared first, since a folder may have many other files."""
    return path.endswith(file.suffix) and os.path.realpath(path) == os.path.realpath(file)


def _no_images(folder: Path, listing: Listing) -> str:
    there = f"; it has {left_out}" if (left_out := listing.left_out()) else ""
    idx_files = sorted(path.name for path in folder.iterdir() if is_images_file(path))
    hint = f"; give an idx file by its own path: {first_names(idx_files)}" if idx_files else ""
    return f"{folder}: no images in this folder{there}{hint}"


def _common_channels(folder: Path, images: list[str], progress: bool) -> int:
    """The number of channels to read: 3 if any image has colour, else 1. Only headers are read."""

    def look(image: int) -> bool | None:
        try:
            return has_colour(images[image])
        except UnusableImageError:
            return None  # decoding will report the error

    found = _for_each(look, len(images), f"Looking at {folder.absolute().name}", progress)
    coloured = found.count(True)
    if coloured and False in found:
        warnings.warn(
            f"{folder}: colour in {coloured:,} of {len(images):,} images (first in "
            f"{os.path.relpath(images[found.index(True)], folder)}), so all are read as RGB; channels=1 (--channels 1) "
            "reads them as grayscale",
            stacklevel=4,
        )
    return 3 if coloured else 1


def _allocate(folder: Path, shape: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """Allocate an array (N, C, H, W) in channels-last order, the order of `ByteImages`."""
    images, channels, height, width = shape
    described = f"{images:,} images of {channels}×{height}×{width}"
    with memory_for(
        f"{folder} ({described})",
        prod(shape),
        "choose a smaller image_size (--image-size), or save the images as a uint8 .npy array, which is read from disk",
    ):
        return np.empty((images, height, width, channels), np.uint8).transpose(0, 3, 1, 2)


def _decode(folder: Path, images: list[str], store: npt.NDArray[np.uint8], progress: bool) -> None:
    """Fill `store` with the images.

    Raises: DatasetError, after all have been tried, that names the images that cannot be read.
    """
    _, channels, size, _ = store.shape

    def decode(image: int) -> str | None:
        try:
            store[image] = read_image(images[image], size, channels)
        except UnusableImageError as error:
            return str(error)
        return None

    with _quiet_pillow():
        reasons = _for_each(decode, len(images), f"Decoding {folder.absolute().name}", progress)
    refused = [(image, reason) for image, reason in zip(images, reasons, strict=True) if reason is not None]
    if len(refused) == 1:
        raise DatasetError(f"{': '.join(refused[0])}; repair it, or move it out of {folder}")
    if refused:
        named = first_names([f"{os.path.relpath(image, folder)} ({reason})" for image, reason in refused])
        raise DatasetError(
            f"{folder}: {len(refused):,} of {len(images):,} images cannot be read; "
            f"repair them, or move them out of the folder: {named}"
        )


def _for_each(work: Callable[[int], Result], count: int, description: str, progress: bool) -> list[Result]:
    """Call ``work`` for 0 to count - 1 from several threads; return its results in order."""
    step = max(1, min(32, count // (8 * _THREADS)))  # a task costs as much as a small image
    results: list[Result] = []

    def block(start: int) -> list[Result]:
        return [work(index) for index in range(start, min(start + step, count))]

    pool = ThreadPoolExecutor(_THREADS)
    try:
        with progress_bar(description, count, enabled=progress) as advance:
            for done in pool.map(block, range(0, count, step)):
                results += done
                advance(len(done))
    finally:
        pool.shutdown(cancel_futures=True)  # lets Ctrl-C end the decoding at once
    return results


def _plural(count: int) -> str:
    return "" if count == 1 else "s"

"""Images in a NumPy file, in memory or on disk."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from betavae_fast.system_memory import fits, format_bytes

from .array_file import open_member, open_npy
from .bits import pack_bits
from .errors import DatasetError, memory_for, readable_as
from .images import BinaryImages, ByteImages, ImageDataset, from_channels_last
from .progress import progress_bar

IN_MEMORY_BYTES = 1 << 30
"""The size up to which a set is held in memory. A larger one is read from disk, batch by batch."""

# Usual names of the images in an npz that also holds other arrays (labels, factors).
_USUAL_NAMES = ("images", "imgs", "x_train", "x", "data", "arr_0")
_BLOCK_BYTES = 16 << 20
_REMEDY = "save it uncompressed and in C order (np.save) to train from disk"

Layout = Literal["NHW", "NCHW", "NHWC"]
Array = npt.NDArray[Any]


class _Source(Protocol):
    """An array of images whose rows can be read: on disk (`ArrayFile`) or in memory (`_Whole`)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def take(self, indices: npt.NDArray[np.int64]) -> Array: ...
    def read(self, start: int, stop: int) -> Array: ...
    def blocks(self, size: int) -> Iterator[tuple[int, Array]]: ...


class _Whole:
    """An array that had to be read whole: deflated, or in Fortran order."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def take(self, indices: npt.NDArray[np.int64]) -> Array:
        return self._array[indices]

    def read(self, start: int, stop: int) -> Array:
        return self._array[start:stop]

    def blocks(self, size: int) -> Iterator[tuple[int, Array]]:
        step = max(1, size // max(1, self._array[:1].nbytes))
        for start in range(0, len(self._array), step):
            yield start, self._array[start : start + step]


class DiskImages(ImageDataset):
    """Images that are read from an array on disk for each batch, so that a set may be larger than memory.

    Batches are made on the CPU. ``to`` with a GPU reads the whole set into the GPU's memory.
    """

    def __init__(self, name: str, source: _Source, layout: Layout, *, binary: bool) -> None:
        super().__init__(name, _image_shape(source.shape, layout))
        self._source = source
        self._layout: Layout = layout
        self._binary = binary
        self._full_scale = 1 if binary else 255

    def __len__(self) -> int:
        return self._source.shape[0]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> ImageDataset:
        """This data set for the CPU; for another device, a copy of it in that device's memory.

        Raises: DatasetError if it does not fit there.
        """
        where = torch.device(device)
        if where.type == "cpu":
            return self
        try:
            return self.in_memory(where)
        except torch.OutOfMemoryError as error:
            raise DatasetError(
                f"{self.name}: needs {format_bytes(self._held_bytes)} of memory on {where}, which has less"
            ) from error

    def in_memory(self, device: torch.device | str = "cpu") -> BinaryImages | ByteImages:
        """A copy in the memory of ``device``, with one bit per pixel if the images are binary, else one byte."""
        count, pixels = len(self), prod(self.image_shape)
        if self._binary:
            bits = torch.empty((count, -(-pixels // 8)), dtype=torch.uint8, device=device)
            self._copy_blocks(bits, self._canonical)
            return BinaryImages(self.name, bits, self.image_shape)
        shape = (count, *self.image_shape)
        store = torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last)
        self._copy_blocks(store, self._pixels)
        return ByteImages(self.name, store, self.image_shape)

    def _copy_blocks(self, store: Tensor, converted: Callable[[Array], npt.NDArray[Any]]) -> None:
        """Fill ``store`` with all rows of the source, converted block by block."""
        for start, rows in self._source.blocks(_BLOCK_BYTES):
            store[start : start + len(rows)] = torch.from_numpy(converted(rows))

    def canonical_bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self._canonical(self._source.read(start, stop))

    def _take(self, indices: Tensor) -> Tensor:
        """The images at ``indices``, in the memory layout of the data sets in memory."""
        pixels = self._pixels(self._source.take(indices.numpy()))
        if self._binary:
            return torch.from_numpy(np.ascontiguousarray(pixels))
        return from_channels_last(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))))

    def _pixel_sums(self) -> Tensor:
        total = torch.zeros(self.image_shape, dtype=torch.int64)
        for _, rows in self._source.blocks(_BLOCK_BYTES):
            sums = self._pixels(rows).sum(0, dtype=np.uint32)  # twice as fast as int64, and cannot overflow
            total += torch.from_numpy(sums.astype(np.int64))
        return total.flatten()

    @property
    def _held_bytes(self) -> int:
        pixels = prod(self.image_shape)
        return len(self) * (-(-pixels // 8) if self._binary else pixels)

    def _pixels(self, rows: Array) -> npt.NDArray[np.bool_] | npt.NDArray[np.uint8]:
        """The pixels (n, C, H, W) of stored rows: bool if binary, else 0 to 255."""
        images = _channels_first(rows, self._layout)
        if self._binary:
            return images != 0
        return images if images.dtype == np.uint8 else np.rint(images * 255).astype(np.uint8)

    def _canonical(self, rows: Array) -> npt.NDArray[np.uint8]:
        pixels = self._pixels(rows)
        return pack_bits(pixels) if self._binary else np.ascontiguousarray(pixels)


def load_array(path: Path, *, progress: bool = True) -> ImageDataset:
    """Load images from an .npy or .npz file.

    An .npz must hold a single array, or several of which one is named images, imgs, x_train, x, data or arr_0. The array
    is (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3. It is bool, uint8 0 to 255, or floating point in [0, 1],
    which is rounded to 8 bits. Arrays with no other values than 0 and 1 are binary. Nothing is ever unpickled.

    A set that takes more than 1 GiB, or more than half of the free memory, stays on disk and is read batch by batch.
    For that, an .npz must be uncompressed (`np.savez`) and the array in C order.

    Returns: `BinaryImages` or `ByteImages` in memory, or `DiskImages`.
    Raises: DatasetError if the file is damaged, if the array is not of the form above, or if it can neither stay on disk
        nor fit into memory (the message gives the bytes needed and the bytes free).
    """
    source, on_disk = _open(path)
    layout = _layout(source.shape, path)
    if source.dtype != np.bool_ and source.dtype != np.uint8 and not np.issubdtype(source.dtype, np.floating):
        raise DatasetError(
            f"{path}: images must be bool, uint8 or floating point in [0, 1], got {source.dtype}"
        )
    images = DiskImages(str(path), source, layout, binary=_is_binary(source, path, progress=progress))
    if on_disk and not (images._held_bytes <= IN_MEMORY_BYTES and fits(2 * images._held_bytes)):
        return images
    return images.in_memory()


def _open(path: Path) -> tuple[_Source, bool]:
    """The array of images in the file, of any dtype and shape, and True if it can stay on disk."""
    with readable_as("array file", path):
        with open(path, "rb") as file:
            is_zip = file.read(2) == b"PK"
        if not is_zip:
            source = open_npy(path)
            if source is None:
                with memory_for(str(path), path.stat().st_size, _REMEDY), open(path, "rb") as file:
                    return _Whole(_read_whole(file, path)), False
            return source, True
        with zipfile.ZipFile(path) as archive:
            member = _member_of_images(path, archive)
            source = open_member(path, archive, member)
            if source is None:
                size = archive.getinfo(member).file_size
                with memory_for(str(path), size, _REMEDY), archive.open(member) as file:
                    return _Whole(_read_whole(file, path)), False
            return source, True


def _member_of_images(path: Path, archive: zipfile.ZipFile) -> str:
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    usual = [name for name in _USUAL_NAMES if name in names]
    if len(names) != 1 and not usual:
        found = ", ".join(names) or "it has no arrays"
        raise DatasetError(
            f"{path}: cannot tell which array holds the images ({found}): name it {_USUAL_NAMES[0]}"
        )
    return f"{usual[0] if usual else names[0]}.npy"


def _read_whole(file: Any, path: Path) -> Array:
    """Read the array in ``file`` and check that the file ends after it.

    A damaged header may promise less data than there is, and a zip member's checksum is only compared at its end.
    """
    array: Array = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise DatasetError(f"{path}: damaged: it has more data than an array of shape {array.shape}")
    return array


def _layout(shape: tuple[int, ...], path: Path) -> Layout:
    if 0 in shape:
        raise DatasetError(f"{path}: no images: its shape is {shape}")
    if len(shape) == 3:
        return "NHW"
    first, last = (len(shape) == 4 and shape[axis] in (1, 3) for axis in (1, 3))
    if first and last:
        raise DatasetError(f"{path}: shape {shape} may be (N, C, H, W) or (N, H, W, C); make it unambiguous")
    if first or last:
        return "NCHW" if first else "NHWC"
    raise DatasetError(
        f"{path}: images must have shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, got {shape}"
    )


def _image_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, int, int]:
    if layout == "NHW":
        return 1, shape[1], shape[2]
    return (shape[1], shape[2], shape[3]) if layout == "NCHW" else (shape[3], shape[1], shape[2])


def _channels_first(rows: Array, layout: Layout) -> Array:
    """View the rows as (n, C, H, W)."""
    if layout == "NHW":
        return rows[:, None]
    return rows if layout == "NCHW" else rows.transpose(0, 3, 1, 2)


def _is_binary(source: _Source, path: Path, *, progress: bool) -> bool:
    """True if every pixel is 0 or 1. Arrays of floats are read whole, others up to the first other value.

    Raises: DatasetError for floats outside [0, 1] or, if the whole file is read, for a checksum that differs.
    """
    if source.dtype == np.bool_:
        return True
    floating, binary = source.dtype != np.uint8, True
    with progress_bar(f"Checking {path.name}", source.shape[0], enabled=progress) as advance:
        for start, rows in source.blocks(_BLOCK_BYTES):
            if floating and not ((rows >= 0) & (rows <= 1)).all():  # written so that NaN fails too
                raise DatasetError(
                    f"{path}: floating-point pixels must lie in [0, 1], got {rows.min():g} to {rows.max():g} "
                    f"in images {start} to {start + len(rows) - 1}"
                )
            binary = binary and bool(((rows == 0) | (rows == 1)).all() if floating else rows.max() <= 1)
            if not binary and not floating:
                break
            advance(len(rows))
    return binary

"""Reads rows of a NumPy array directly from its file.

Rows are read by position (pread) rather than through a memory map. If somebody rewrites a mapped file, a bus error ends
the process; a read by position fails with an error message. It also needs no address space, so that ``ulimit -v`` does
not limit the size of a data set. The operating system keeps the data read in its page cache, which all processes share.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .errors import DatasetError

Rows = npt.NDArray[Any]

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_LOCAL_HEADER_BYTES = 30  # size of a zip member's header, before its name and extra field
_LARGEST_READ = 1 << 30  # bytes; Linux reads at most 2 GiB per call


@dataclass(frozen=True)
class ArrayFile:
    """An array in C order whose bytes lie uncompressed in a file: an .npy, or a stored member of an .npz.

    Attributes:
        offset: the position of the array's first byte in the file.
        crc: the CRC-32 that an .npz records of the member; None for an .npy, which records none.
        crc_prefix: the CRC-32 of the member's bytes before the array.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    crc: int | None = None
    crc_prefix: int = 0

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop``, as a new array."""
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self._fill(rows.view(np.uint8).reshape(-1) if rows.size else np.empty(0, np.uint8), start)
        return rows

    def take(self, indices: npt.NDArray[np.int64]) -> Rows:
        """The rows at ``indices``, in that order, as a new array. Neighbours are read in one call."""
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        flat = rows.reshape(len(indices), -1).view(np.uint8) if rows.size else np.empty((0, 0), np.uint8)
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        for first, last in zip((0, *breaks), (*breaks, len(indices)), strict=True):
            if first < last:
                self._fill(flat[first:last].reshape(-1), int(indices[first]))
        return rows

    def blocks(self, size: int) -> Iterator[tuple[int, Rows]]:
        """Yield all rows in order, in blocks of about ``size`` bytes, each with the number of its first row.

        Raises: DatasetError at the end if the file records a CRC-32 that differs from the content's.
        """
        crc = self.crc_prefix
        step = max(1, size // max(1, self.row_bytes))
        for start in range(0, len(self), step):
            rows = self.read(start, min(start + step, len(self)))
            if self.crc is not None:
                crc = zlib.crc32(rows.data, crc)
            yield start, rows
        if self.crc is not None and crc != self.crc:
            raise DatasetError(
                f"{self.path}: damaged: its CRC-32 is {crc:08x}, the archive records {self.crc:08x}"
            )

    def __getstate__(self) -> dict[str, Any]:
        # An open file cannot be pickled: each process opens its own.
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    @cached_property
    def _file(self) -> IO[bytes]:
        return open(self.path, "rb", buffering=0)

    def _fill(self, buffer: npt.NDArray[np.uint8], row: int) -> None:
        """Fill ``buffer`` with the bytes that begin at ``row``."""
        position, view = self.offset + row * self.row_bytes, buffer.data
        while len(view):
            count = self._read_at(view[:_LARGEST_READ], position)
            if count == 0:
                raise DatasetError(
                    f"{self.path}: it ends before byte {position}, within its array of shape {self.shape}; "
                    "was it changed while it was in use?"
                )
            position, view = position + count, view[count:]

    def _read_at(self, view: memoryview, position: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], position)
        with open(self.path, "rb", buffering=0) as file:  # Windows has no positional read
            file.seek(position)
            return file.readinto(view) or 0


def open_npy(path: Path) -> ArrayFile | None:
    """The array of an .npy file; None if it has to be read whole (Fortran order, or a rarer version of the format).

    Raises: NumPy's errors for a damaged header; DatasetError if the file is longer or shorter than its header says.
    """
    with open(path, "rb") as file:
        return _describe(file, path, 0, os.fstat(file.fileno()).st_size)


def open_member(path: Path, archive: zipfile.ZipFile, name: str) -> ArrayFile | None:
    """The array of an .npz's member; None if it has to be read whole (deflated, or for the reasons of ``open_npy``)."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:  # bit 0: encrypted
        return None
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
        name_bytes, extra_bytes = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        start = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        file.seek(start)
        found = _describe(file, path, start, start + info.file_size)
        if found is None:
            return None
        file.seek(start)
        prefix = zlib.crc32(file.read(found.offset - start))
    return ArrayFile(path, found.offset, found.shape, found.dtype, crc=info.CRC, crc_prefix=prefix)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Read the header of an .npy in ``file``, up to the array's first byte: its shape and dtype.

    None if the bytes that follow are no array in C order: Fortran order, objects, or a rarer version of the format.
    """
    reader = _HEADER_READERS.get(np.lib.format.read_magic(file))
    if reader is None:
        return None
    shape, fortran, dtype = reader(file)
    return None if (fortran and len(shape) > 1) or dtype.hasobject else (shape, dtype)


def _describe(file: IO[bytes], path: Path, start: int, end: int) -> ArrayFile | None:
    """The array whose header begins at ``start``, the current position of ``file``, and whose data end at ``end``."""
    header = read_header(file)
    if header is None:
        return None
    shape, dtype = header
    offset = file.tell()
    expected = prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or end - offset != expected:
        kind = "more" if end - offset > expected else "less"
        raise DatasetError(f"{path}: damaged: it has {kind} data than an array of shape {shape}")
    return ArrayFile(path, offset, shape, dtype)

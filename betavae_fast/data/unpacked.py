"""Keeps images that a published file holds compressed in the cache folder, as an .npy whose rows are read from disk."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from betavae_fast.files import atomic_writer, read_json, remove_stale, write_json
from betavae_fast.system_memory import format_bytes

from .array_file import ArrayFile, open_npy
from .errors import DatasetError, readable_as
from .identity import checksum
from .progress import progress_bar

BLOCK_BYTES = 16 << 20
"""About the size of the blocks that are unpacked at a time."""

Blocks = Iterator[npt.NDArray[np.uint8]]


def unpacked(
    source: Path, cached: Path, shape: tuple[int, ...], blocks: Callable[[], Blocks], *, progress: bool
) -> ArrayFile:
    """The rows that ``blocks()`` reads from ``source``, from an .npy that is made once.

    The checksum of the .npy stands in a file beside it, which is written last, and is compared on every load as that of
    a data set is: of more than 1 GiB, 64 pieces. A damaged .npy is named in a warning and made again.

    Args:
        source: the file to unpack, for messages.
        cached: path of the .npy. It must change with the content of ``source``.
        shape: shape of the array of uint8.
        blocks: yields the rows in order.
    Raises: DatasetError, which names the bytes needed and the remedy, if the .npy cannot be written; the errors of
        ``blocks``, after which no .npy is left.
    """
    try:
        return _checked(cached, shape)
    except FileNotFoundError:
        pass
    except (ValueError, OSError) as error:
        warnings.warn(f"{error}; making it again", stacklevel=2)
    needed = format_bytes(prod(shape))
    remedy = f"name a folder with room for {needed} in the environment variable BETAVAE_FAST_CACHE"
    try:
        remove_stale(cached)
        _check_room(source, cached, prod(shape), remedy)
        _write(source, cached, shape, blocks, progress)
        write_json(_record(cached), {"shape": shape, "sha256": _checksum(_opened(cached, shape))})
    except OSError as error:
        raise DatasetError(f"{source}: cannot be unpacked into the cache ({error}); {remedy}") from error
    return _opened(cached, shape)


def _write(
    source: Path, cached: Path, shape: tuple[int, ...], blocks: Callable[[], Blocks], progress: bool
) -> None:
    written = 0
    with (
        atomic_writer(cached) as file,
        progress_bar(f"Unpacking {source.name}", shape[0], enabled=progress) as advance,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for rows in blocks():
            file.write(np.ascontiguousarray(rows).data)
            written += len(rows)
            advance(len(rows))
        if written != shape[0]:
            raise DatasetError(f"{source}: damaged: it has {written} of {shape[0]} images")


def _checked(cached: Path, shape: tuple[int, ...]) -> ArrayFile:
    """Raises: FileNotFoundError if it was never made completely; ValueError or OSError if it cannot be used."""
    record = read_json(_record(cached))
    with readable_as("array file", cached):
        found = _opened(cached, shape)
    if not isinstance(record, dict) or record.get("sha256") != _checksum(found):
        raise DatasetError(f"{cached}: damaged, its checksum does not match its content")
    return found


def _opened(cached: Path, shape: tuple[int, ...]) -> ArrayFile:
    found = open_npy(cached)
    if found is None or found.shape != shape or found.dtype != np.uint8:
        raise DatasetError(f"{cached}: damaged, it is no array of uint8 of shape {shape}")
    return found


def _checksum(rows: ArrayFile) -> str:
    return checksum(len(rows), rows.row_bytes, lambda start, stop: rows.read(start, stop).data)


def _record(cached: Path) -> Path:
    return cached.with_suffix(".json")


def _check_room(source: Path, cached: Path, needed: int, remedy: str) -> None:
    """Refuse to fill the disk with an .npy that does not fit."""
    folder = next((folder for folder in cached.absolute().parents if os.path.isdir(folder)), None)
    if folder is not None and (free := shutil.disk_usage(folder).free) < needed:
        raise DatasetError(
            f"{source}: is unpacked into {cached.parent}, which has {format_bytes(free)} free; {remedy}"
        )

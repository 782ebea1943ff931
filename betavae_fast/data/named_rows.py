"""Finds, for each file of a folder, the row of a table that names it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import DatasetError, first_names


def rows_of_files(
    files: Sequence[str], named: Sequence[str], source: Path, folder: Path
) -> npt.NDArray[np.int64]:
    """The row of each of ``files`` in a table whose rows name them: int64 (len(files),).

    Args:
        files: paths below ``folder``, with "/" between their parts.
        named: the names of the table's rows, in order.
        source: the table's file, for messages.
    Raises: DatasetError if the table names a file twice, or one that is not there, or not all.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(named):
        if rows.setdefault(_key(name), row) != row:
            raise DatasetError(
                f"{source}: names {name} twice, in its rows {rows[_key(name)] + 1} and {row + 1}"
            )
    found = [rows.get(_key(file_name(file)), -1) for file in files]
    if -1 in found:
        missing = [file_name(file) for file, row in zip(files, found, strict=True) if row < 0]
        raise DatasetError(
            f"{source}: has no row for {len(missing):,} of {len(files):,} images in {folder}: {first_names(missing)}"
        )
    if len(files) < len(named):
        there = set(found)
        unknown = [name for row, name in enumerate(named) if row not in there]
        raise DatasetError(
            f"{source}: names {len(unknown):,} files that are no images in {folder}: {first_names(unknown)}"
        )
    return np.array(found, np.int64)


def file_name(path: str) -> str:
    """The path of a file as text, which it need not be; what is none becomes "�"."""
    return os.fsencode(path).decode("utf-8", "replace")


def _key(name: str) -> str:
    """The name without the accidents of writing it: composed or decomposed letters, and a leading ./ before it."""
    return unicodedata.normalize("NFC", name).removeprefix("./")

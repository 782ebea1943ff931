"""Reads factors of one's own images from a CSV, .npy or .npz file: ``load_dataset(..., factors=FILE)``."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import DatasetError, readable_as
from .folder import FolderImages
from .images import ImageDataset
from .labelled import FactorColumns, TableImages, unlabelled
from .named_rows import rows_of_files

CLASSES = 20
"""The classes of a column of floating-point numbers that has more different values than this."""

_FILE = "file"
_DELIMITERS = ",;\t"
_MISSING = frozenset({"nan", "na", "n/a", "null", "none", "-", "?"})

Array = npt.NDArray[Any]


class _Table(NamedTuple):
    """The columns of a file by their names, and the words for a row in an error message."""

    columns: dict[str, Array]
    row_in_words: Callable[[int], str]


def with_factors(dataset: ImageDataset, path: str | os.PathLike[str]) -> TableImages:
    """The images of ``dataset`` with the factors in a file, which replace those that it has.

    - A CSV begins with a line of names. Commas, semicolons or tabs stand between its cells. Beside a folder of images,
      its column ``file`` has the path of each below the folder, with "/" between the parts, in any order; beside other
      images there is a row for each, in their order.
    - An .npz has an array (N,) for each factor, named like it, and ``file`` for a folder; a .npy is an array (N, K), or a
      structured one, whose fields are the factors.

    A column of integers, of truth values or of text is a factor whose classes are its different values, sorted. So is a
    column of floating-point numbers with at most 20 different values; with more it is cut into 20 classes of equal count
    (equal values stay in one class), and the value of a class is the mean of its numbers.

    Raises: DatasetError, one line, which names the file, and row and column where there are: for an empty cell, NaN, a
        wrong number of rows, a file named twice or not there, a column whose values are all different (unless they are
        floating-point), or no column that varies.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise DatasetError(f"{path}: no such file of factors")
    images = unlabelled(dataset)
    table = _read(path)
    columns = {name: _checked(name, column, path) for name, column in table.columns.items()}
    files = images.files if isinstance(images, FolderImages) else None
    if files is None and _FILE in columns:
        raise DatasetError(
            f"{path}: has a column {_FILE}, but {dataset.name} is no folder of images; leave it out, a row for each image"
        )
    if files is not None:
        if _FILE not in columns:
            raise DatasetError(
                f"{path}: must have a column {_FILE} with the paths of the images below {dataset.name}, "
                f"got {', '.join(columns)}"
            )
        rows = rows_of_files(files, columns.pop(_FILE).astype(str).tolist(), path, Path(dataset.name))
    else:
        rows = np.arange(len(images))
    if not columns:
        raise DatasetError(f"{path}: has no column for a factor")
    for name, column in columns.items():
        if len(column) != len(images):
            raise DatasetError(
                f"{path}: column {name} has {len(column):,} rows, but {dataset.name} has {len(images):,} images"
            )
    found = [_classes(name, column, path, table.row_in_words) for name, column in columns.items()]
    if all(len(values) == 1 for values, _ in found):
        raise DatasetError(f"{path}: no factor varies: each column has a single value")
    classes = np.stack([of_factor[rows].astype(np.int32) for _, of_factor in found], axis=1)
    factors = FactorColumns(tuple(columns), tuple(values for values, _ in found), classes)
    return TableImages(images.name, images, factors)


def _checked(name: str, column: Array, path: Path) -> Array:
    """A column of integers, truth values, float64 or text.

    Raises: DatasetError for one of another dtype or shape, or of bytes that are not UTF-8.
    """
    column = np.asarray(column)  # a member of an archive that is no .npy comes as bytes
    kind = column.dtype.kind
    if column.ndim != 1 or kind not in "biufUS":
        raise DatasetError(
            f"{path}: column {name} must have one dimension and numbers or text, got {column.dtype} of {column.shape}"
        )
    if kind == "S":
        with readable_as(f"file of factors: column {name} must be UTF-8", path):
            return np.char.decode(column, "utf-8")
    return column.astype(np.float64) if kind == "f" else column


def _classes(
    name: str, column: Array, path: Path, row_in_words: Callable[[int], str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The values of a factor's classes, and the class of each row.

    Raises: DatasetError for values that make no classes.
    """
    kind = column.dtype.kind
    if kind == "U":
        column = np.char.strip(column)
        if (empty := column == "").any():
            raise DatasetError(f"{path}: {row_in_words(int(empty.argmax()))}, column {name}: is empty")
    if kind == "f" and (wrong := ~np.isfinite(column)).any():
        row = int(wrong.argmax())
        raise DatasetError(f"{path}: {row_in_words(row)}, column {name}: must be finite, got {column[row]}")
    present, classes = np.unique(column, return_inverse=True)
    if kind == "f" and len(present) > CLASSES:
        # Rows of equal values get the class in their middle. So the largest number is never in the class of the smallest.
        ordered = np.sort(column)
        ranks = (
            np.searchsorted(ordered, column) + np.searchsorted(ordered, column, "right") - 1
        )  # twice the middle
        _, classes = np.unique(ranks * CLASSES // (2 * len(column)), return_inverse=True)
        sums = np.bincount(classes, weights=column)
        return sums / np.bincount(classes), classes
    if kind != "f" and len(present) == len(column) > CLASSES:
        raise DatasetError(
            f"{path}: column {name} has another value in each of {len(column):,} rows, so it is no factor: leave it out, "
            "or write numbers with a decimal point"
        )
    return (np.arange(len(present)) if kind == "U" else present).astype(np.float64), classes


def _read(path: Path) -> _Table:
    if path.suffix in (".npy", ".npz"):
        return _Table(_read_arrays(path), "row {}".format)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _read_csv(path)
    raise DatasetError(f"{path}: factors are read from .csv, .npy or .npz, got {path.suffix or 'no suffix'}")


def _read_arrays(path: Path) -> dict[str, Array]:
    """The members of an .npz, or the columns or fields of an .npy; a file's content says which of them it is."""
    with readable_as("file of factors", path):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found:
                return {name: found[name] for name in found.files}
    if found.dtype.names is not None:
        return {name: found[name] for name in found.dtype.names}
    if found.ndim != 2:
        raise DatasetError(f"{path}: factors must have shape (N, K) or fields with names, got {found.shape}")
    return {f"column_{k}": column for k, column in enumerate(found.T)}


def _read_csv(path: Path) -> _Table:
    with readable_as("CSV file in UTF-8", path), open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        delimiter = max(_DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
        file.seek(0)
        names, cells, lines = _cells(
            path, csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        )
    in_words = lambda row: f"line {lines[row]}"
    columns: dict[str, Array] = {}
    for name, column in zip(names, zip(*cells, strict=True) if cells else ((),) * len(names), strict=True):
        if "" in column:
            raise DatasetError(f"{path}: {in_words(column.index(''))}, column {name}: is empty")
        if name == _FILE:
            columns[name] = np.array(column, np.str_)
            continue
        # With semicolons between the cells, a number may have a decimal comma.
        told = [cell.replace(",", ".") for cell in column] if delimiter == ";" else column
        numbers = _numbers(told)
        if numbers is None and (row := _gap(told)) is not None:
            raise DatasetError(
                f"{path}: {in_words(row)}, column {name}: must be a number like the others, got {column[row]!r}"
            )
        columns[name] = np.array(column, np.str_) if numbers is None else numbers
    return _Table(columns, in_words)


def _cells(path: Path, reader: Any) -> tuple[list[str], list[list[str]], list[int]]:
    """The names in the first line, the cells of each row, and its line in the file.

    Raises: DatasetError for names that are empty or equal, or a row that is longer or shorter than the first line.
    """
    names = [" ".join(name.split()) for name in next(reader, [])]
    if not names or "" in names:
        raise DatasetError(f"{path}: its first line must name each column, got {names}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DatasetError(f"{path}: its first line names {twice} twice")
    cells: list[list[str]] = []
    lines: list[int] = []
    blank: int | None = None
    for row in reader:
        if not row:
            blank = blank or reader.line_num
            continue
        if blank is not None or len(row) != len(names):
            got = "none" if blank is not None else str(len(row))
            raise DatasetError(
                f"{path}: line {blank or reader.line_num}: must have {len(names)} cells, one for each name in the "
                f"first line, got {got}"
            )
        cells.append([cell.strip() for cell in row])
        lines.append(reader.line_num)
    return names, cells, lines


def _numbers(cells: Sequence[str]) -> npt.NDArray[np.int64] | npt.NDArray[np.float64] | None:
    """The cells as integers, else as floating-point numbers; None if some are neither, or too large an integer."""
    if any("_" in cell for cell in cells):  # which Python allows within numbers
        return None
    try:
        return np.array([int(cell) for cell in cells], np.int64)
    except OverflowError:
        return None
    except ValueError:
        pass
    try:
        return np.array([float(cell) for cell in cells], np.float64)
    except ValueError:
        return None


def _gap(cells: Sequence[str]) -> int | None:
    """The first row whose cell says that a value is missing, in a column in which all other cells are numbers."""
    said = [row for row, cell in enumerate(cells) if cell.lower() in _MISSING]
    others = [cell for cell in cells if cell.lower() not in _MISSING]
    return said[0] if said and others and _numbers(others) is not None else None

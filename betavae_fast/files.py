"""Writing files completely or not at all, and JSON that keeps every number and that every reader accepts."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_STALE_SECONDS = 3600.0
_TOKEN_BYTES = 8
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_NOT_FINITE = re.compile(r"(\\*)(nan|inf|-inf)")  # a number without backslashes, a text with them


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``, which is renamed to ``path`` once it is complete and on disk.

    A reader sees the old file or the new one, never a part; of several writers the last one wins. If the block raises,
    nothing is left. Files left by killed writers are removed once they are an hour old.

    Raises: OSError, which names ``path``, if the disk is full or fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}.tmp")
    try:
        # Mode "x" rather than tempfile: the file gets the permissions of the user's umask, so that a cache can be shared.
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _name_storage_error(error, path)
        raise


def remove_stale(path: Path) -> None:
    """Remove the temporary files of ``path`` that killed writers left over an hour ago."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(FileNotFoundError):  # its writer may finish just now
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add ``path`` to errors of a full or failing disk within the block, because a failed write names no file."""
    try:
        yield
    except OSError as error:
        _name_storage_error(error, path)
        raise


def _name_storage_error(error: BaseException, path: Path) -> None:
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        error.filename = str(path)


def remove_leftovers(folder: Path) -> None:
    """Remove the files that killed writers left in ``folder``, however new. No other process may be writing there."""
    for leftover in folder.glob(f".*.{'[0-9a-f]' * 2 * _TOKEN_BYTES}.tmp"):
        leftover.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` atomically as JSON, converted by ``jsonable``. Creates the folder."""
    with atomic_writer(path) as file:
        text = json.dumps(jsonable(content), indent=1, ensure_ascii=False, allow_nan=False)
        file.write(f"{text}\n".encode())


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote, numbers that are not finite included.

    Dataclasses come back as dicts, arrays and tuples as lists.

    Raises: OSError if the file cannot be read; ValueError, naming it, if it is not JSON.
    """
    try:
        return _restored(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def jsonable(value: Any) -> Any:
    r"""Convert dataclasses to objects, arrays to lists, and numbers that are not finite, which JSON lacks, to strings.

    These strings, "nan", "inf" and "-inf", are those that ``float`` reads back. A text that reads like one of them gets a
    backslash before it, so that ``read_json`` can tell them apart.

    >>> jsonable({"gap": np.array([0.5, np.inf]), "name": "inf"})
    {'gap': [0.5, 'inf'], 'name': '\\inf'}
    """
    if isinstance(value, dict):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str) and _NOT_FINITE.fullmatch(value):
        return f"\\{value}"
    return value


def _restored(value: Any) -> Any:
    """The inverse of ``jsonable`` for numbers and texts."""
    if isinstance(value, dict):
        return {key: _restored(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_restored(entry) for entry in value]
    if isinstance(value, str) and (found := _NOT_FINITE.fullmatch(value)):
        return value[1:] if found[1] else float(value)
    return value

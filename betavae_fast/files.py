"""Files as the package writes them: whole or not at all, and JSON that every reader takes."""

from __future__ import annotations

import errno
import json
import math
import os
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


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of ``path``, renamed to ``path`` once it is whole and on disk.

    A reader sees the old file or the new one, never a part; of several writers the last one wins. If the
    block raises, nothing is left. Leftovers of writers that were killed are removed once they are an hour
    old.

    Raises: OSError, which names ``path``, if the disk is full or refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(FileNotFoundError):  # its writer may finish at this moment
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}.tmp")
    try:
        # "x" rather than tempfile: the file gets the permissions of the user's umask, so a shared cache can
        # be shared.
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within the block, an error of a full or failing disk names ``path``: a write fails without a file's name."""
    try:
        yield
    except OSError as error:
        _name_storage_error(error, path)
        raise


def _name_storage_error(error: BaseException, path: Path) -> None:
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        error.filename = str(path)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in ``folder``, however new: nobody else may be writing there."""
    for leftover in folder.glob(f".*.{'[0-9a-f]' * 2 * _TOKEN_BYTES}.tmp"):
        leftover.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as ``jsonable`` turns it into JSON, atomically; the folder is made."""
    with atomic_writer(path) as file:
        text = json.dumps(jsonable(content), indent=1, ensure_ascii=False, allow_nan=False)
        file.write(f"{text}\n".encode())


def jsonable(value: Any) -> Any:
    """Dataclasses as objects, arrays as lists. JSON has no number that is not finite: those become the strings
    "nan", "inf" and "-inf", which ``float`` reads back.

    >>> jsonable({"gap": np.array([0.5, np.inf])})
    {'gap': [0.5, 'inf']}
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
    return value

"""Files the package keeps between runs: where, how they are written, and packed rows with a checksum."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import DatasetError

_HEADER_BYTES = 4096  # a page, so that the rows behind it are mapped on a page boundary
_STALE_SECONDS = 3600.0
_TOKEN_BYTES = 8
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of cached files; nothing is created.

    `cache_dir`, else $BETAVAE_FAST_CACHE, else betavae_fast in $XDG_CACHE_HOME, else in ~/.cache. A user without a home
    folder gets betavae_fast-<user id> in the system's folder of temporary files.
    """
    if cache_dir is not None:
        return Path(os.path.expanduser(cache_dir))
    if own := os.environ.get("BETAVAE_FAST_CACHE"):
        return Path(os.path.expanduser(own))
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # the XDG specification says to ignore a relative path
        return Path(xdg) / "betavae_fast"
    try:
        return Path.home() / ".cache" / "betavae_fast"
    except RuntimeError:  # neither $HOME nor an entry in the system's list of users
        return Path(tempfile.gettempdir()) / f"betavae_fast-{os.getuid()}"


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary neighbour of `path`, renamed to `path` once it is whole and on disk.

    A reader sees the old file or the new one, never a part; of several writers the last one wins. If the
    block raises, nothing is left. Leftovers of writers that were killed are removed once they are an hour
    old.

    Raises: OSError, which names `path`, if the disk is full or refuses.
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
    """Within the block, an error of a full or failing disk names `path`: a write fails without a file's name."""
    try:
        yield
    except OSError as error:
        _name_storage_error(error, path)
        raise


def _name_storage_error(error: BaseException, path: Path) -> None:
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        error.filename = str(path)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed `atomic_writer`s left in `folder`, however new: nobody else may be writing there."""
    for leftover in folder.glob(f".*.{'[0-9a-f]' * 2 * _TOKEN_BYTES}.tmp"):
        leftover.unlink(missing_ok=True)


def _header(rows: npt.NDArray[np.uint8]) -> bytes:
    # SHA-256 takes 0.2 s for the 377 MB of dSprites with the CPU's SHA instructions, under 1 s without them.
    digest = hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
    text = f"betavae_fast packed rows {rows.shape[0]}x{rows.shape[1]} sha256 {digest}\n"
    return text.encode().ljust(_HEADER_BYTES)


def write_rows(path: Path, rows: npt.NDArray[np.uint8]) -> None:
    """Writes uint8 rows (N, R) with their checksum, atomically. Raises OSError when the disk refuses."""
    with atomic_writer(path) as file:
        file.write(_header(rows))
        file.write(np.ascontiguousarray(rows).data)


def read_rows(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Maps what `write_rows` wrote: uint8 (N, R), copy-on-write, so processes share one copy in memory.

    Raises: FileNotFoundError; DatasetError if any byte of the file is not as written or the shape is not
        `shape`.
    """
    expected = _HEADER_BYTES + shape[0] * shape[1]
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != expected:
            raise DatasetError(f"{path}: damaged, it has {size} bytes instead of {expected}")
        header = file.read(_HEADER_BYTES)
        rows = np.memmap(file, dtype=np.uint8, mode="c", offset=_HEADER_BYTES, shape=shape)
        # The header is a function of the rows, so comparing all of it leaves no byte of the file unchecked.
        if header != _header(rows):
            raise DatasetError(f"{path}: damaged, its checksum does not match its content")
    return rows


def load_or_build(path: Path, shape: tuple[int, int], build: Callable[[], npt.NDArray[np.uint8]]) -> Tensor:
    """The rows cached at `path`, or `build()`, which is then cached: uint8 tensor (N, R).

    A damaged file is named in a warning and built again; a cache that cannot be written costs a warning, not
    the run.
    """
    try:
        return torch.from_numpy(read_rows(path, shape))
    except FileNotFoundError:
        pass
    except (DatasetError, OSError) as error:
        warnings.warn(f"{error}; making it again", stacklevel=2)
    rows = build()
    try:
        write_rows(path, rows)
    except OSError as error:
        warnings.warn(f"{path}: cannot be cached ({error}); the next run will make it again", stacklevel=2)
    return torch.from_numpy(rows)

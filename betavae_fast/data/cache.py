"""Keeps the files of data sets between runs: packed rows with a checksum, in a cache folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from betavae_fast.files import atomic_writer

from .errors import DatasetError

_HEADER_BYTES = 4096  # one page, so that the rows after it are mapped on a page boundary


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of cached files, which is not created here.

    It is `cache_dir`, else $BETAVAE_FAST_CACHE, else betavae_fast in $XDG_CACHE_HOME, else betavae_fast in ~/.cache. A
    user without a home folder gets betavae_fast-<user id> in the system's folder of temporary files.
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


def _header(rows: npt.NDArray[np.uint8]) -> bytes:
    # SHA-256 takes 0.2 s for the 377 MB of dSprites with the CPU's SHA instructions, under 1 s without them.
    digest = hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
    text = f"betavae_fast packed rows {rows.shape[0]}x{rows.shape[1]} sha256 {digest}\n"
    return text.encode().ljust(_HEADER_BYTES)


def write_rows(path: Path, rows: npt.NDArray[np.uint8]) -> None:
    """Write uint8 rows (N, R) with their checksum, atomically. Raises: OSError if they cannot be written."""
    with atomic_writer(path) as file:
        file.write(_header(rows))
        file.write(np.ascontiguousarray(rows).data)


def read_rows(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Map a file of `write_rows` into memory: uint8 (N, R), copy-on-write, so that processes share one copy.

    Raises: FileNotFoundError; DatasetError if any byte of the file has changed or its shape is not `shape`.
    """
    expected = _HEADER_BYTES + shape[0] * shape[1]
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != expected:
            raise DatasetError(f"{path}: damaged, it has {size} bytes instead of {expected}")
        header = file.read(_HEADER_BYTES)
        rows = np.memmap(file, dtype=np.uint8, mode="c", offset=_HEADER_BYTES, shape=shape)
        # The header follows from the rows, so comparing all of it checks every byte of the file.
        if header != _header(rows):
            raise DatasetError(f"{path}: damaged, its checksum does not match its content")
    return rows


def load_or_build(path: Path, shape: tuple[int, int], build: Callable[[], npt.NDArray[np.uint8]]) -> Tensor:
    """The rows cached at `path`, or those that `build()` makes and that are then cached: uint8 tensor (N, R).

    A damaged file is named in a warning and built again. A cache that cannot be written causes a warning, no error.
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

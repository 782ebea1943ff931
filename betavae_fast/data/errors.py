"""The errors for data that cannot be used. Every loader raises DatasetError."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from betavae_fast.system_memory import check_fits

_NAMED = 10  # most files named in a message


class DatasetError(ValueError):
    """A data set is missing, damaged, too large or of no supported form; the message is one line and names the file."""


class UnusableImageError(Exception):
    """A file cannot be read as an image; the message is one line and gives the reason, without the file's name."""


@contextmanager
def memory_for(what: str, needed: int, remedy: str) -> Iterator[None]:
    """Guard the allocation of ``needed`` bytes for ``what``.

    Raises: DatasetError if they do not fit into memory; it gives the bytes needed, the bytes free, and ``remedy``.
    """
    try:
        check_fits(what, needed)
        yield
    except MemoryError as error:
        told = str(error).removeprefix(f"{what}: ") or "out of memory"
        raise DatasetError(f"{what}: {told}; {remedy}") from error


@contextmanager
def readable_as(form: str, path: Path) -> Iterator[None]:
    """Name the file in every error of a library that reads it.

    For damaged files NumPy and zipfile alone raise a dozen types: zlib.error, struct.error, RuntimeError for a flipped
    "encrypted" bit, ...

    Raises: DatasetError, one line, instead of them.
    """
    try:
        yield
    except (DatasetError, FileNotFoundError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{path}: not a readable {form}: {reason}") from error


def first_names(names: Sequence[str]) -> str:
    """The first ten names, and the number of the remaining ones."""
    more = [f"and {len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])

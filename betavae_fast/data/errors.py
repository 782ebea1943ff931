"""The errors of data that cannot be used: every loader raises DatasetError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from betavae_fast.system_memory import check_fits


class DatasetError(ValueError):
    """A data set that is missing, damaged, too large or of no supported form: one line that names the file."""


class UnusableImageError(Exception):
    """The reason why a file cannot be read as an image: one line, without the file's name."""


@contextmanager
def memory_for(what: str, needed: int, remedy: str) -> Iterator[None]:
    """Guards the allocation of ``needed`` bytes for ``what``.

    Raises: DatasetError with the bytes needed, those that are free, and ``remedy``, if they do not fit into memory.
    """
    try:
        check_fits(what, needed)
        yield
    except MemoryError as error:
        told = str(error) or f"{what}: out of memory"
        raise DatasetError(f"{told}; {remedy}") from error

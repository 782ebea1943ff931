"""The errors for data that cannot be used. Every loader raises DatasetError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from betavae_fast.system_memory import check_fits


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

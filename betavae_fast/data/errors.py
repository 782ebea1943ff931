"""The one error every loader raises for data it cannot use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from betavae_fast.system_memory import check_fits


class DatasetError(ValueError):
    """A data set that is missing, damaged, too large or of no supported form: one line that names the file."""


@contextmanager
def memory_for(what: str, needed: int, remedy: str) -> Iterator[None]:
    """Guards the allocation of ``needed`` bytes for ``what``.

    Raises: DatasetError with the bytes needed, those that are free, and ``remedy``, if they do not fit into memory.
    """
    try:
        with suppress(ValueError):  # a system that does not tell how much memory it has
            check_fits(what, needed)
        yield
    except MemoryError as error:
        told = str(error) or f"{what}: out of memory"
        raise DatasetError(f"{told}; {remedy}") from error

"""Fixtures of the tests that run the kernels on CPU tensors in Triton's interpreter.

test_interpreter.py starts the tests in processes of their own, because the interpreter is chosen when Triton is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py", "parity.py"]


def _tiles_of(block: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from betavae_fast.ops.triton import partition  # imported here, because Triton may be missing

    monkeypatch.setattr(partition, "BLOCKS", (block,))
    partition.row_partition.cache_clear()
    yield
    partition.row_partition.cache_clear()


@pytest.fixture
def big_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make tiles big, because the interpreter's time depends on the number of tiles, not of elements."""
    yield from _tiles_of(1 << 16, monkeypatch)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make tiles small, so that a row of a few elements is cut into panels."""
    yield from _tiles_of(256, monkeypatch)

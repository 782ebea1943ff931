"""Fixtures that the tests of several backends share."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture
def gpu_memory() -> Iterator[Callable[[int], None]]:
    """Return a function that skips a test if so many bytes of the GPU are not free. Its users take turns in all
    processes.
    """

    def claim(size: int) -> None:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if torch.cuda.mem_get_info()[0] < size:
            pytest.skip(f"needs {size >> 30} GiB of free GPU memory")

    with (Path(tempfile.gettempdir()) / f"betavae-fast-tests-{os.getuid()}.lock").open("w") as turn:
        yield claim
        torch.cuda.empty_cache()

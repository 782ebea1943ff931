"""Fixtures that the tests of several modules share, and what a whole run of the tests can be told."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator

import pytest
import torch

from betavae_fast.bench import copying
from betavae_fast.training import memory, precision


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--native-bf16",
        choices=("yes", "no"),
        help="what the tests' process finds when it asks whether the device computes in bfloat16 natively, on which"
        ' precision "auto" depends; processes that tests start are told their precision',
    )


def pytest_configure(config: pytest.Config) -> None:
    answer = config.getoption("native_bf16")
    if answer is not None:
        patch = pytest.MonkeyPatch()
        asked = functools.wraps(precision.has_native_bf16)(lambda device: answer == "yes")
        patch.setattr(precision, "has_native_bf16", asked)
        config.add_cleanup(patch.undo)


@pytest.fixture(scope="session", autouse=True)
def little_memory() -> Iterator[None]:
    """Commands run in the tests' own process leave it as small as it was: training would have it keep all memory it
    frees, and the benchmarks keep a copy larger than any cache, which takes 2 GB on a server."""
    last_level_cache = copying.last_level_cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "keep_freed_memory", lambda: False)
        patch.setitem(copying._AT_LEAST, "cpu", 1 << 20)
        patch.setattr(
            copying,
            "last_level_cache",
            lambda device: 1 << 18 if device.type == "cpu" else last_level_cache(device),
        )
        yield


@pytest.fixture(scope="module", autouse=True)
def freed_memory_goes_back() -> Iterator[None]:
    """To the system, which glibc would not give it: over all modules that makes half a gigabyte."""
    yield
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Uninitialised tensors are NaN: an element that a kernel forgets to write shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(7).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.fixture
def threads() -> Iterator[None]:
    """Lets a test call ``torch.set_num_threads``; puts back what it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

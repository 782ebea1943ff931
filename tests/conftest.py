"""Fixtures that the tests of several modules share, and the options of a test run."""

from __future__ import annotations

import ctypes
import functools
import signal
import sys
from collections.abc import Iterator

import pytest
import torch

from betavae_fast.bench import copying
from betavae_fast.data import images
from betavae_fast.nn import convolutions
from betavae_fast.training import precision, process

_M_MMAP_THRESHOLD = -3  # in glibc's malloc.h


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--native-bf16",
        choices=("yes", "no"),
        help="pretend in the tests' process that bfloat16 is the faster precision on any device or is not, on which"
        ' precision "auto" depends; processes that tests start get their precision by an option',
    )


def pytest_configure(config: pytest.Config) -> None:
    answer = config.getoption("native_bf16")
    if answer is not None:
        patch = pytest.MonkeyPatch()
        for name in ("has_native_bf16", "bf16_speedup"):
            asked = functools.wraps(getattr(precision, name))(lambda *_: 2.0 * (answer == "yes"))
            patch.setattr(precision, name, asked)
        config.add_cleanup(patch.undo)


@pytest.fixture(scope="session", autouse=True)
def little_memory() -> Iterator[None]:
    """Let tests leave their process as small as they found it.

    This setting makes glibc return every large piece of memory as soon as it is free; by default it learns from the first
    pieces to keep them. Training makes glibc keep all memory, and the benchmarks keep a copy that is larger than any
    cache, which takes 2 GB on a server.
    """
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    last_level_cache = copying.last_level_cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "keep_freed_memory", lambda: False)
        patch.setitem(copying._AT_LEAST, "cpu", 1 << 20)
        patch.setattr(
            copying,
            "last_level_cache",
            lambda device: 1 << 18 if device.type == "cpu" else last_level_cache(device),
        )
        yield


@pytest.fixture(scope="module", autouse=True)
def freed_memory_goes_back() -> Iterator[None]:
    """Forget the code that a module's tests compiled, and return small pieces of free memory to the system."""
    yield
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step on the CPU run the operators of a step on a GPU: no index is read, and the transposed convolutions are
    torch's."""
    monkeypatch.setattr(images, "check_indices", lambda *_: None)
    monkeypatch.setattr(convolutions.ConvTranspose2d, "forward", torch.nn.ConvTranspose2d.forward)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Restore SIGINT: a program started in the background may ignore it, and so do the programs it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fill uninitialised tensors with NaN, so that an element that a kernel forgets to write is seen."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(7).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.fixture
def threads() -> Iterator[None]:
    """Let a test call ``torch.set_num_threads``, and restore the number afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

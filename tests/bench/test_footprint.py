"""The peak memory of a call is what it holds at one time, its result included, not the sum of its allocations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from betavae_fast.bench.footprint import footprint
from betavae_fast.bench.timing import Task

CPU = torch.device("cpu")
SIZE = 1 << 20


def _bytes() -> torch.Tensor:
    return torch.ones(SIZE, dtype=torch.uint8)


def _one_after_the_other() -> None:
    for _ in range(3):
        _bytes()


def _together() -> int:
    return len([_bytes() for _ in range(3)])


@pytest.mark.parametrize(
    ("call", "kept"), [(_bytes, 1), (_one_after_the_other, 1), (_together, 3), (lambda: None, 0)]
)
def test_the_peak_is_what_is_held_at_one_time(call: Callable[[], object], kept: int) -> None:
    found = footprint(Task("x", lambda _: call()), CPU)
    assert found.peak_bytes == pytest.approx(kept * SIZE, abs=4096)
    assert found.launches is None


def test_what_was_prepared_does_not_count_and_its_release_makes_room() -> None:
    def replace(prepared: list[torch.Tensor]) -> torch.Tensor:
        prepared.clear()
        return _bytes()

    assert footprint(Task("x", replace, prepare=lambda: [_bytes()]), CPU).peak_bytes <= 4096


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("calls", [1, 5])
def test_launches_are_counted(calls: int) -> None:
    x = torch.zeros(8, device="cuda")

    def add(_: object) -> None:
        for _ in range(calls):
            x.add_(1)

    assert footprint(Task("x", add), torch.device("cuda")).launches == calls

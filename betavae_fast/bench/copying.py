"""The floor: the speed at which this machine copies, measured between the contenders and with as many threads."""

from __future__ import annotations

from functools import cache

import torch

from betavae_fast.bench.machine import last_level_cache
from betavae_fast.bench.timing import Task, Timing

MEMORY, SAME_SIZE = "copy", "copy of the same size"
_AT_LEAST = {"cpu": 256 << 20, "cuda": 1 << 30}


def fits_in_cache(moved: int, device: torch.device) -> bool:
    return moved <= last_level_cache(device)


def copy_tasks(moved: int, device: torch.device) -> tuple[Task, ...]:
    """A copy too large for any cache and, if the problem fits into a cache, a copy of as many bytes as the problem."""
    if fits_in_cache(moved, device):
        return _memory_copy(device), _copy_task(SAME_SIZE, moved, device)
    return (_memory_copy(device),)


def memory_copy_bytes(device: torch.device) -> int:
    """The bytes that the large copy reads and writes together."""
    return 2 * max(_AT_LEAST[device.type], 4 * last_level_cache(device))


def gigabytes_per_second(moved: int, timing: Timing) -> float:
    return moved / timing.p50 * 1e-9


@cache
def _memory_copy(device: torch.device) -> Task:
    """The large copy. It is made once, because filling so much memory takes time."""
    return _copy_task(MEMORY, memory_copy_bytes(device), device)


def _copy_task(name: str, moved: int, device: torch.device) -> Task:
    source = torch.rand(moved // 8, device=device)  # float32, read once and written once
    target = torch.empty_like(source).copy_(source)
    return Task(name, lambda _: target.copy_(source))

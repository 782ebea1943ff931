"""The floor: how fast this machine copies, measured among the contenders, with as many threads."""

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
    """A copy too large for any cache and, where the problem fits into one, a copy of the same bytes."""
    if fits_in_cache(moved, device):
        return _memory_copy(device), _copy_task(SAME_SIZE, moved, device)
    return (_memory_copy(device),)


def memory_copy_bytes(device: torch.device) -> int:
    """Read and written by the large copy."""
    return 2 * max(_AT_LEAST[device.type], 4 * last_level_cache(device))


def gigabytes_per_second(moved: int, timing: Timing) -> float:
    return moved / timing.p50 * 1e-9


@cache
def _memory_copy(device: torch.device) -> Task:
    """Made once: filling so much memory takes time."""
    return _copy_task(MEMORY, memory_copy_bytes(device), device)


def _copy_task(name: str, moved: int, device: torch.device) -> Task:
    source = torch.rand(moved // 8, device=device)  # float32, read once and written once
    target = torch.empty_like(source).copy_(source)
    return Task(name, lambda _: target.copy_(source))

"""Measures the times of several tasks side by side.

A sample is a series of calls, long enough for the timer to be exact; its time is divided by the number of calls. The
samples of all tasks are interleaved in rounds of changing order, so that a machine that slows down slows all tasks alike.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class Task:
    """``call(prepare())``, of which only ``call`` is timed: all items of a sample are prepared before it starts."""

    name: str
    call: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None
    max_calls: int = 1000


@dataclass(frozen=True)
class Effort:
    """The duration of a measurement.

    Args:
        sample_seconds: the least duration of a sample.
        task_seconds: the duration of all samples of a task together.
        min_samples, max_samples: bounds of the number of samples, which have priority over ``task_seconds``.
    """

    sample_seconds: float = 0.005
    task_seconds: float = 1.5
    min_samples: int = 7
    max_samples: int = 100


# Gives an answer within a minute.
BRIEF = Effort(sample_seconds=0.002, task_seconds=0.4, min_samples=5)
# Gives a first impression; the figures are too noisy to quote.
QUICK = Effort(sample_seconds=0.0005, task_seconds=0.02, min_samples=3, max_samples=20)


@dataclass(frozen=True)
class Timing:
    """Percentiles of the seconds of one call."""

    p20: float
    p50: float
    p80: float
    samples: int
    calls_per_sample: int


class Clock(Protocol):
    """Measures the seconds that a function takes."""

    def settle(self) -> None:
        """Wait until the previous task's remaining work has ended."""

    def __call__(self, work: Callable[[], object]) -> float: ...


class CpuClock:
    """Wall time."""

    SPIN_SECONDS = 0.003

    def settle(self) -> None:
        """Wait until idle OpenMP threads have stopped spinning.

        torch and the code that torch.compile generates may each load their own OpenMP. Its threads spin for a while
        after their work and would take the cores from the next task.
        """
        sleep(self.SPIN_SECONDS)

    def __call__(self, work: Callable[[], object]) -> float:
        start = perf_counter()
        work()
        return perf_counter() - start


class CudaClock:
    """Device time between two events.

    Args:
        flush: overwrite the L2 cache before each sample. The write is so large that the device is still busy with it
            while the host enqueues the work; gaps between launches are then not timed.
    """

    FLUSHED_BYTES = 1 << 30

    def __init__(self, flush: bool) -> None:
        size = self.FLUSHED_BYTES if flush else 0
        self.scratch = torch.empty(size, dtype=torch.uint8, device="cuda")

    def settle(self) -> None:
        torch.cuda.synchronize()

    def __call__(self, work: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.scratch.zero_()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3


def clock_of(device: torch.device, *, flush: bool = False) -> Clock:
    return CpuClock() if device.type == "cpu" else CudaClock(flush)


def interleave(tasks: Sequence[Task], clock: Clock, effort: Effort) -> dict[str, Timing]:
    """The times of the tasks by name. The samples of a task that needs fewer are spread over all rounds."""
    with _no_garbage_collection():
        plans = [_plan(task, clock, effort) for task in tasks]
        rounds = max(samples for _, samples in plans)
        times: list[list[float]] = [[] for _ in tasks]
        for r in range(rounds):
            for i in (*range(r % len(tasks), len(tasks)), *range(r % len(tasks))):
                calls, samples = plans[i]
                if (r + 1) * samples // rounds > r * samples // rounds:
                    times[i].append(_sample(tasks[i], calls, clock))
    return {
        task.name: _timing(seconds, calls)
        for task, seconds, (calls, _) in zip(tasks, times, plans, strict=True)
    }


def _plan(task: Task, clock: Clock, effort: Effort) -> tuple[int, int]:
    """The number of calls in a sample and the number of samples, found after a warm-up."""
    for _ in range(2):
        _sample(task, 1, clock)
    calls, seconds = 1, _sample(task, 1, clock)
    while calls * seconds < effort.sample_seconds and calls < task.max_calls:
        calls = min(task.max_calls, 2 * calls, math.ceil(effort.sample_seconds / seconds))
        seconds = _sample(task, calls, clock)
    samples = round(effort.task_seconds / (calls * seconds))
    return calls, min(max(samples, effort.min_samples), effort.max_samples)


def _sample(task: Task, calls: int, clock: Clock) -> float:
    """The seconds of one call. Before a series of short calls, an untimed one wakes the threads and warms the cache."""
    call, prepared = task.call, [task.prepare() for _ in range(calls)]
    clock.settle()
    if calls > 1:
        call(task.prepare())

    def work() -> None:
        for item in prepared:
            call(item)

    return clock(work) / calls


def _timing(seconds: list[float], calls: int) -> Timing:
    deciles = statistics.quantiles(seconds, n=10, method="inclusive")
    return Timing(deciles[1], deciles[4], deciles[7], len(seconds), calls)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

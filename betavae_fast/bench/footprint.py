"""Measures the peak memory of a call and, on a GPU, its kernel launches, with torch's profiler."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, record_function

from betavae_fast.bench.timing import Task

# Keeps the profiler's own messages out of the printed tables.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
_CALL = "the call"


@dataclass(frozen=True)
class Footprint:
    """The memory and the launches of one call.

    Args:
        peak_bytes: most bytes that torch held at one time above those held before the call, outputs included.
        launches: number of kernels, copies and fills on the device; None on a CPU, or if the profiler sees none.
    """

    peak_bytes: int
    launches: int | None


def footprint(task: Task, device: torch.device) -> Footprint:
    return _on_gpu(task) if device.type == "cuda" else _on_cpu(task)


def _on_cpu(task: Task) -> Footprint:
    # The preparation is recorded too: the profiler ignores the release of memory whose allocation it did not see.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        prepared = task.prepare()
        with record_function(_CALL):
            outputs = task.call(prepared)
    del outputs
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    start = next(e.start_ns() for e in events if e.name() == _CALL)
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    before = sum(change for time, change in changes if time < start)
    levels = accumulate((change for time, change in changes if time >= start), initial=before)
    return Footprint(max(levels) - before, None)


def _on_gpu(task: Task) -> Footprint:
    prepared = task.prepare()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outputs = task.call(prepared)
    peak = torch.cuda.max_memory_allocated() - before
    del outputs, prepared
    prepared = task.prepare()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        task.call(prepared)
        torch.cuda.synchronize()
    launches = sum(event.device_type == DeviceType.CUDA for event in profiler.events())
    return Footprint(peak, launches or None)

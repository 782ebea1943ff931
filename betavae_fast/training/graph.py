"""The launch of a step: as one CUDA graph on a GPU, call by call elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from betavae_fast.processes import world_size
from betavae_fast.training.distributed import has_nccl

_WARM_UP = 3
# DistributedDataParallel rebuilds its buckets and measures itself in its first steps; torch asks for 11.
_WARM_UP_DATA_PARALLEL = 11


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Run the block on a stream of its own, if ``device`` is a GPU.

    The default stream cannot be captured, and autograd requires that everything before the capture ran on the
    capturing stream.
    """
    with side_streams(device, 1) as (stream,), stream:
        yield


@contextmanager
def side_streams(device: torch.device, count: int) -> Iterator[list[AbstractContextManager[None]]]:
    """Make ``count`` streams, each a context that makes it the current one as often as it is entered.

    They begin after the work queued before, and later work on the current stream waits for them. On a CPU the contexts do
    nothing. Whatever is queued on one of them must not write what another reads. These are separate by themselves:

    - memory: torch's allocator gives a block that was freed on a stream to that stream alone, and a CUDA graph has a pool
      of its own (https://docs.pytorch.org/docs/stable/notes/cuda.html, "Graph memory management");
    - the workspaces of cuBLAS: one for each handle and stream, kept until the process ends (there, "cuBLAS workspaces").
      This also keeps the bits of its results, which it promises for several streams only then (cuBLAS's documentation,
      "Results Reproducibility"). Autograd's thread has a handle of its own, so a stream needs two of them;
    - backward: autograd runs a node on the stream of its forward (same page, "Stream semantics of backward passes").

    torch has 32 streams, so of more than 32 some are the same.
    """
    if device.type != "cuda":
        yield [nullcontext()] * count
        return
    outer = torch.cuda.current_stream(device)
    streams = [torch.cuda.Stream(device) for _ in range(count)]
    for stream in streams:
        stream.wait_stream(outer)
    try:
        yield [torch.cuda.stream(stream) for stream in streams]
    finally:
        for stream in streams:
            outer.wait_stream(stream)


def graphed(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A replacement for ``step`` that replays it as a CUDA graph; to be called on a stream of ``side_streams``.

    The first calls run ``step``, the next call records it, and later calls replay the recording without any Python.
    ``step`` must therefore be a fixed sequence of operations on tensors at fixed addresses. On a CPU, ``step`` itself
    is returned; on a GPU that cannot record it, too, with a warning.
    """
    if device.type != "cuda":
        return step
    if world_size() > 1 and not has_nccl():
        warnings.warn("no CUDA graph: without NCCL, gradients go through the host's memory", stacklevel=2)
        return step
    return _GraphedStep(step, _WARM_UP if world_size() == 1 else _WARM_UP_DATA_PARALLEL)


class _GraphedStep:
    def __init__(self, step: Callable[[], None], warm_up: int) -> None:
        self._step = step
        self._warm_up = warm_up
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._warm_up > 0:
            self._warm_up -= 1
            self._step()
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            # thread_local: NCCL's watchdog queries events in its own thread, which a global capture forbids.
            with torch.cuda.graph(
                self._graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
            ):
                self._step()
        self._graph.replay()

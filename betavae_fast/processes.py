"""Exchanges over torch.distributed between the processes that share a batch.

In a single process, where torch.distributed is not initialised, means, sums and extremes are the process's own, and
``whole_batch`` is None.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessLostError(Exception):
    """Another process of the run has ended, or cannot be reached."""


def is_connected() -> bool:
    """Tell whether this process is one of several that torch.distributed connects."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process among all of the run, from 0."""
    return dist.get_rank() if is_connected() else 0


def world_size() -> int:
    """The number of processes that train together, on all machines."""
    return dist.get_world_size() if is_connected() else 1


def whole_batch() -> dist.ProcessGroup | None:
    """The group of processes that share a batch; None for a single process."""
    return dist.group.WORLD if is_connected() else None


def mean_over_processes(mean: Tensor) -> Tensor:
    """The mean of ``mean`` over all processes, with the same bits in each. Gradients flow to the process's own ``mean``.

    If every process minimises the same function of the result, the average of their gradients is therefore the gradient
    of that function of the whole batch's mean.
    """
    if not is_connected():
        return mean
    whole = mean.detach().clone()
    dist.all_reduce(whole)
    whole /= dist.get_world_size()
    return whole + (mean - mean.detach())


def gather_rows(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The rows of all processes, in the order of their ranks. A row's gradient is the sum of its gradients in all."""
    gathered: Tensor = _GatherRows.apply(x, group)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):  # type: ignore[no-untyped-def]
        ctx.group, ctx.rows = group, len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        # all_reduce rather than reduce_scatter, which gloo does not have.
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        first = ctx.group.rank() * ctx.rows
        return grad[first : first + ctx.rows], None


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of ``values``, a tensor on the CPU, over all processes. It overwrites ``values``.

    Raises: ProcessLostError, as the two functions below do.
    """
    return _reduce(values, dist.ReduceOp.SUM)


def any_process(flag: bool) -> bool:
    """Tell whether ``flag`` is set in any process."""
    return bool(_reduce(torch.tensor(int(flag)), dist.ReduceOp.MAX)) if is_connected() else flag


def least_of_processes(number: int) -> int:
    """The smallest ``number`` among all processes."""
    return int(_reduce(torch.tensor(number), dist.ReduceOp.MIN))


@contextmanager
def peers() -> Iterator[None]:
    """Raise ProcessLostError if, within the block, another process has stopped answering."""
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors, which only the path of its sources in their text identifies.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ProcessLostError(f"another process of this run has ended ({_reason(error)})") from error
        raise


def _reason(error: RuntimeError) -> str:
    """The first sentence of gloo's "[file:line] Read error [address]: Connection reset by peer. This is ..."."""
    return str(error).split("] ", 1)[-1].split(". ", 1)[0]


def _reduce(values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if is_connected():
        with peers():
            dist.all_reduce(values, operation)
    return values

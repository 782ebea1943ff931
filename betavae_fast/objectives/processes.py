"""Means over processes that share a batch; of a single process, its own."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_processes(mean: Tensor) -> Tensor:
    """The mean of every process's ``mean``, the same bits in all of them; its gradient is that of the process's own.

    So where each process minimises a function of it, its gradients averaged over the processes are those of the function
    of the whole batch's mean.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return mean
    whole = mean.detach().clone()
    dist.all_reduce(whole)
    whole /= dist.get_world_size()
    return whole + (mean - mean.detach())


def whole_batch() -> dist.ProcessGroup | None:
    """The processes that share a batch; None for a single one."""
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None

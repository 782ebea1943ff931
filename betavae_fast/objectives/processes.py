"""Means over the processes that share a batch. A single process uses its own mean."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_processes(mean: Tensor) -> Tensor:
    """The mean of ``mean`` over all processes, with the same bits in each. Gradients flow to the process's own ``mean``.

    If every process minimises the same function of the result, the average of their gradients is therefore the gradient
    of that function of the whole batch's mean.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return mean
    whole = mean.detach().clone()
    dist.all_reduce(whole)
    whole /= dist.get_world_size()
    return whole + (mean - mean.detach())


def whole_batch() -> dist.ProcessGroup | None:
    """The group of processes that share a batch; None for a single process."""
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None

"""Training one model in several processes, which torchrun starts and describes in environment variables.

Without torchrun, every function here behaves as in a run of one process.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from betavae_fast.processes import any_process, peers, world_size
from betavae_fast.training.launch import launched_processes, local_rank


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes that torchrun started, for the duration of the block.

    Gradients on GPUs go over NCCL, everything else over gloo, which notices at once when a process ends.

    Raises: ProcessLostError if the processes do not find each other; ValueError if the launcher's variables are
        incomplete.
    """
    if launched_processes() == 1:
        yield
        return
    with peers():
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_nccl() else "gloo")
    try:
        yield
    except BaseException as error:
        _clear_frames(error)
        raise
    finally:
        dist.destroy_process_group()


def has_nccl() -> bool:
    """Tell whether GPUs exchange gradients directly. If not, gloo exchanges them through host memory."""
    return torch.cuda.is_available() and dist.is_nccl_available()


@contextmanager
def one_per_machine_first() -> Iterator[None]:
    """Make the first process of each machine run the block before the others, which then find its files in the cache."""
    if local_rank() == 0:
        yield
        any_process(False)  # a barrier
    else:
        any_process(False)
        yield


def data_parallel(model: nn.Module) -> nn.Module:
    """The model, wrapped if there are several processes, so that backward averages the gradients over them."""
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def _clear_frames(error: BaseException | None) -> None:
    """Drop the variables of the calls that an error has ended. A CUDA graph among them that holds NCCL's exchange would
    outlive the group, which waits for it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__

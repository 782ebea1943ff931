"""Training one model in several processes, which torchrun starts and describes in environment variables.

Without torchrun, every function here behaves as in a run of one process.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from betavae_fast.training.launch import launched_processes, local_rank


class ProcessLostError(Exception):
    """Another process of the run has ended, or cannot be reached."""


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


def rank() -> int:
    """The number of this process among all of the run, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes that train together, on all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


def has_nccl() -> bool:
    """Tell whether GPUs exchange gradients directly. If not, gloo exchanges them through host memory."""
    return torch.cuda.is_available() and dist.is_nccl_available()


@contextmanager
def one_per_machine_first() -> Iterator[None]:
    """Make the first process of each machine run the block before the others, which then find its files in the cache."""
    if local_rank() == 0:
        yield
        _barrier()
    else:
        _barrier()
        yield


def data_parallel(model: nn.Module) -> nn.Module:
    """The model, wrapped if there are several processes, so that backward averages the gradients over them."""
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of ``values``, a tensor on the CPU, over all processes. It overwrites ``values``."""
    return _reduce(values, dist.ReduceOp.SUM)


def any_process(flag: bool) -> bool:
    """Tell whether ``flag`` is set in any process."""
    return bool(_reduce(torch.tensor(int(flag)), dist.ReduceOp.MAX))


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


def _clear_frames(error: BaseException | None) -> None:
    """Drop the variables of the calls that an error has ended. A CUDA graph among them that holds NCCL's exchange would
    outlive the group, which waits for it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _reason(error: RuntimeError) -> str:
    """The first sentence of gloo's "[file:line] Read error [address]: Connection reset by peer. This is ..."."""
    return str(error).split("] ", 1)[-1].split(". ", 1)[0]


def _barrier() -> None:
    any_process(False)


def _reduce(values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if dist.is_initialized():
        with peers():
            dist.all_reduce(values, operation)
    return values

"""The device of a run, and its choice of convolution algorithms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

import torch

from betavae_fast.training.launch import local_rank, local_world_size

_LONGEST_REASON = 200


def resolve_device(device: str) -> torch.device:
    """The device called ``device``; "auto" is cuda if there is a GPU, else cpu.

    If several processes of a run share a machine, each gets a GPU of its own.

    Raises: ValueError for a name that torch does not know, a device that is missing, or a single GPU named for
        several processes.
    """
    name = device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if local_world_size() > 1:
        if name.startswith("cuda:"):
            raise ValueError(f"device {device!r} is one GPU for {local_world_size()} processes; give cuda")
        if name == "cuda":
            name = f"cuda:{local_rank()}"
    try:
        resolved = torch.device(name)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # torch lists every operator and backend it has; the first sentence says what is wrong.
        reason = shorten(str(error).split(". ")[0], _LONGEST_REASON, placeholder=" ...")
        raise ValueError(f"device {name!r} cannot be used: {reason}") from error
    return resolved


@contextmanager
def convolutions(*, deterministic: bool) -> Iterator[None]:
    """Make cuDNN choose algorithms that give the same bits in every run, or else the fastest ones it measures.

    By default it may choose weight gradients that add with atomics, in an order that changes from run to run.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = deterministic, not deterministic
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before

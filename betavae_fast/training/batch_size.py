"""How many images fit in memory at once, and how a batch is shared out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from betavae_fast.data.images import ImageDataset
from betavae_fast.nn import BetaVAE, ReconstructionLoss
from betavae_fast.system_memory import available_memory
from betavae_fast.training.distributed import least_of_processes, world_size
from betavae_fast.training.launch import local_world_size
from betavae_fast.training.precision import autocast

CUDA_SHARE = 0.8
"""Of a GPU's free memory: the rest is for the optimizer and what fragments."""
CPU_SHARE = 0.25
"""Of the machine's available memory: the CPU's allocations are estimated, and others work there too."""
_TRIAL_ROWS = 16


def rows_per_part(batch_size: int, accumulate: int) -> int:
    """Images of a forward pass, if every process takes its share of a batch in ``accumulate`` equal parts.

    Raises: ValueError if the batch does not split so.

    >>> rows_per_part(64, accumulate=4)
    16
    """
    parts = world_size() * accumulate
    if batch_size % parts:
        raise ValueError(
            f"batch_size {batch_size} does not split into {world_size()} processes × {accumulate} accumulated "
            f"parts: it must be divisible by {parts}"
        )
    return batch_size // parts


def largest_batch_size(
    model: BetaVAE,
    reconstruction: ReconstructionLoss,
    dataset: ImageDataset,
    *,
    precision: torch.dtype,
    accumulate: int,
) -> int:
    """The largest batch, at most the data set, whose parts are a power of two of images and fit in the free
    memory of every process's device. Model and data set are on that device; the model's gradients are dropped.
    What an objective computes from the latents is not counted: beside the networks it is little.

    Raises: ValueError if not one image fits, or the data set has fewer images than the batch has parts.
    """

    def trial(rows: int) -> None:
        try:
            images = dataset.gather(torch.zeros(rows, dtype=torch.int64, device=device))
            with autocast(device, precision):
                out = model(images, seed=0)
                loss = reconstruction(out.decoded, images) + out.kl.sum()
            loss.backward()
        finally:  # a backward pass that has run out of memory has come to some of the parameters
            model.zero_grad(set_to_none=True)

    device, parts = dataset.device, world_size() * accumulate
    if device.type == "cuda":
        fits = lambda rows: _fits_on_gpu(trial, rows, device)
    else:
        room = CPU_SHARE * available_memory() / local_world_size()
        bytes_per_row = _saved_bytes(trial, _TRIAL_ROWS, model) / _TRIAL_ROWS
        # Backward holds, beside what forward saved, gradients of no more than as much again.
        fits = lambda rows: 2 * bytes_per_row * rows <= room
    rows = least_of_processes(largest_power_of_two(fits, len(dataset) // parts))
    if rows == 0:
        raise ValueError(
            f"batch_size auto: not one image for each of {parts} parts of a batch, "
            f"from {len(dataset)} images and the free memory of {device}"
        )
    return rows * parts


def largest_power_of_two(fits: Callable[[int], bool], most: int) -> int:
    """The largest power of two up to ``most`` that fits, if all smaller ones do; 0 if none.

    >>> largest_power_of_two(lambda rows: rows <= 100, most=1000)
    64
    """
    rows = 0
    while max(1, 2 * rows) <= most and fits(max(1, 2 * rows)):
        rows = max(1, 2 * rows)
    return rows


def _fits_on_gpu(trial: Callable[[int], None], rows: int, device: torch.device) -> bool:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    free, _ = torch.cuda.mem_get_info(device)
    before = torch.cuda.memory_reserved(device)
    try:
        trial(rows)
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        # So cuDNN and the kernels refuse more elements than they can number. Images that fit half as many at a time are
        # right in all but their number.
        if rows == 1:
            raise
        return False
    return torch.cuda.max_memory_reserved(device) - before <= CUDA_SHARE * free


def _saved_bytes(trial: Callable[[int], None], rows: int, model: BetaVAE) -> int:
    """Bytes that the forward pass of ``rows`` images keeps for backward, the model's own not counted."""
    sizes: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        trial(rows)
    for parameter in model.parameters():
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(sizes.values())

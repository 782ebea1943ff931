"""The largest batch that fits in memory, and the split of a batch into parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from betavae_fast.data.images import ImageDataset
from betavae_fast.nn import BetaVAE, ReconstructionLoss
from betavae_fast.processes import least_of_processes, world_size
from betavae_fast.system_memory import available_memory
from betavae_fast.training.launch import local_world_size
from betavae_fast.training.precision import autocast

CUDA_SHARE = 0.8
"""The share of a GPU's free memory that a batch may take. The rest is for the optimizer and for fragmentation."""
CPU_SHARE = 0.25
"""The share of the machine's available memory, smaller because allocations are only estimated on a CPU and other
programs need memory, too."""
_TRIAL_ROWS = 16


def rows_per_part(batch_size: int, accumulate: int) -> int:
    """The number of images in a forward pass, if every process splits its share of a batch into ``accumulate`` parts.

    Raises: ValueError if the batch does not split evenly.

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
    most: int,
) -> int:
    """The largest batch of up to ``most`` images whose parts fit in the free memory of every process's device.

    A part is a power of two of images. Model and data set are on the device;
    the model's gradients are dropped. The objective's memory is not counted, because it is small beside the networks'.

    Raises: ValueError if not even one image fits, or the data set has fewer images than the batch has parts.
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
        # The factor 2: backward adds gradients, which take at most as much memory as forward saved.
        fits = lambda rows: 2 * bytes_per_row * rows <= room
    rows = least_of_processes(largest_power_of_two(fits, most // parts))
    if rows == 0:
        raise ValueError(
            f"batch_size auto: not one image fits into a part of the batch; the batch has {parts} parts, "
            f"the data set {most} images to train on, and the memory is the free memory of {device}"
        )
    return rows * parts


def largest_power_of_two(fits: Callable[[int], bool], most: int) -> int:
    """The largest power of two up to ``most`` that fits, assuming that all smaller ones fit; 0 if none does.

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
    """Bytes that the forward pass of ``rows`` images saves for backward, without the model's parameters."""
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

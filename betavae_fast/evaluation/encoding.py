"""Encodes a whole data set once, for everything that is measured on its codes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from betavae_fast.data.images import ImageDataset
from betavae_fast.evaluation.packed_encoder import pack, side_by_side
from betavae_fast.functional import reparameterize
from betavae_fast.nn import BetaVAE
from betavae_fast.nn.pixels import to_float
from betavae_fast.training.precision import autocast

# Fastest as measured: smaller parts spend their time between the layers; a GPU needs more to be busy.
_BATCH = {"cpu": 128, "cuda": 8192}


@dataclass(frozen=True, eq=False)
class Encoding:
    """The posteriors of N images: means and log-variances, float32 (N, D) on the CPU."""

    mu: Tensor
    logvar: Tensor

    @property
    def mean_codes(self) -> NDArray[np.float32]:
        """The posterior means, (N, D)."""
        codes: NDArray[np.float32] = self.mu.numpy()
        return codes

    def sampled_codes(self, seed: int) -> NDArray[np.float32]:
        """One draw of each posterior, (N, D), the same for the same seed."""
        codes: NDArray[np.float32] = reparameterize(self.mu, self.logvar, seed=seed).numpy()
        return codes


@torch.inference_mode()
def encode(
    model: BetaVAE,
    dataset: ImageDataset,
    indices: Tensor | None = None,
    *,
    batch_size: int | None = None,
    precision: torch.dtype = torch.float32,
    on_images: Callable[[int], object] = lambda count: None,
) -> Encoding:
    """The posteriors of all images of ``dataset``, or of those at ``indices``, in that order.

    Args:
        model: the model, whose weights keep their memory format; its convolutions are fastest in channels_last.
        indices: int64 (N,).
        batch_size: number of images encoded at a time; by default a size that suits the device.
        precision: dtype of the network's arithmetic, float32 or bfloat16.
        on_images: called after each batch with the number of its images.
    Raises: ValueError for images of another shape than the model's or a batch size below 1.

    >>> from betavae_fast.data import ByteImages
    >>> images = ByteImages("grey", torch.full((5, 1, 8, 8), 128, dtype=torch.uint8), (1, 8, 8))
    >>> encode(BetaVAE((1, 8, 8), latent_dim=3), images).mean_codes.shape
    (5, 3)
    """
    device = next(model.parameters()).device
    dataset = dataset.to(device)
    chosen = (torch.arange(len(dataset)) if indices is None else indices).to(device)
    size = _BATCH.get(device.type, 1024) if batch_size is None else batch_size
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}")
    rows = min(size, len(chosen))
    if batch_size is None:  # a part for each thread
        rows = min(rows, -(-len(chosen) // torch.get_num_threads()))
    packed = _packed(model, dataset, rows, precision)
    if packed is not None:
        size = rows
    moments = torch.empty(2, len(chosen), model.latent_dim, device=device)
    reading = Lock()  # a data set serves one thread at a time

    def write(moments_of: Callable[[Tensor], Tensor], start: int) -> int:
        batch = chosen[start : start + size]
        with torch.inference_mode():  # inference mode holds for one thread
            with reading:
                images = dataset.gather(batch)
            moments[:, start : start + size] = moments_of(images).unflatten(1, (2, -1)).movedim(1, 0)
        return len(batch)

    def layer_by_layer(images: Tensor) -> Tensor:
        with autocast(device, precision):
            return torch.cat(model.encode(images), dim=1)

    parts = range(0, len(chosen), size)
    with nullcontext(map) if packed is None else side_by_side() as run:
        for count in run(partial(write, packed or layer_by_layer), parts):
            on_images(count)
    mu, logvar = moments.cpu()
    return Encoding(mu, logvar)


def _packed(
    model: BetaVAE, dataset: ImageDataset, rows: int, precision: torch.dtype
) -> Callable[[Tensor], Tensor] | None:
    """The packed encoder, from images to their moments (B, 2·D).

    None if ``model.encode`` must run itself: off the CPU, replaced, for images that it refuses, or with layers that
    ``pack`` does not take.
    """
    if (
        dataset.device.type != "cpu"
        or type(model).encode is not BetaVAE.encode
        or "encode" in vars(model)
        or dataset.image_shape != model.image_shape
        or rows == 0
    ):
        return None
    encoder = pack(model.encoder, torch.zeros(rows, *model.image_shape), precision)
    return None if encoder is None else lambda images: encoder(to_float(images, precision))

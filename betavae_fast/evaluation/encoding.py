"""Encodes images: a data set once, for everything that is measured on its codes, or a tensor."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from betavae_fast.choices import Kept
from betavae_fast.data.images import ImageDataset
from betavae_fast.evaluation.packed_network import pack, side_by_side
from betavae_fast.functional import gaussian_kl, reparameterize
from betavae_fast.nn import BetaVAE
from betavae_fast.nn.pixels import to_float
from betavae_fast.training.precision import autocast, check_precision
from betavae_fast.training.trained_run import open_run

# Fastest as measured: smaller parts spend their time between the layers; a GPU needs more to be busy.
_BATCH = {"cpu": 128, "cuda": 8192}


@dataclass(frozen=True, eq=False)
class Encoding:
    """The posteriors of N images: means and log-variances, float32 (N, D) on the CPU.

    ``logvar`` lies within the model's ``logvar_range``, if it has one, as in training.
    """

    mu: Tensor
    logvar: Tensor

    @property
    def mean_codes(self) -> NDArray[np.float32]:
        """The posterior means, (N, D)."""
        codes: NDArray[np.float32] = self.mu.numpy()
        return codes

    def sampled_codes(self, seed: int, first_row: int = 0) -> NDArray[np.float32]:
        """One draw of each posterior, (N, D), the same for the same seed.

        Args:
            first_row: index of the first image in the whole data set. Parts of a set that are given theirs get the draws
                of the whole set.
        """
        z = reparameterize(self.mu, self.logvar, seed=seed, first_row=first_row)
        codes: NDArray[np.float32] = z.numpy()
        return codes

    def kl(self) -> Tensor:
        """The KL of each posterior to N(0, I) in each channel: float32 (N, D), nats."""
        return gaussian_kl(self.mu, self.logvar, reduction="none")

    def kl_per_dim(self) -> Tensor:
        """The mean of the KL over the images: float32 (D,), nats per image. A channel in use has more than 0.05.

        >>> Encoding(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.zeros(2, 2)).kl_per_dim()
        tensor([2., 0.])
        """
        return gaussian_kl(self.mu, self.logvar)


@dataclass(frozen=True, eq=False)
class Encoder:
    """The encoder of a trained model, as a function from images to their posteriors.

    Args:
        model: the model, on any device.
        precision: dtype of the network's arithmetic, float32 or bfloat16; the codes are float32.
    Raises: ValueError for another precision.

    >>> encoder = Encoder(BetaVAE((1, 8, 8), latent_dim=3))
    >>> found = encoder(torch.zeros(5, 8, 8, dtype=torch.uint8))
    >>> found.mu.shape, found.logvar.dtype, found.kl_per_dim().shape
    (torch.Size([5, 3]), torch.float32, torch.Size([3]))
    """

    model: BetaVAE
    precision: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        check_precision(self.precision)

    @classmethod
    def from_run(
        cls, path: str | os.PathLike[str], device: str = "auto", *, kept: Kept = "latest"
    ) -> Encoder:
        """The encoder of the run in the folder ``path``, in the precision that it was trained in. Its data are not read.

        Args:
            device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
            kept: "latest", or "best": the model with the lowest validation loss.
        Raises: the errors of ``open_run``.
        """
        run = open_run(path, device, kept=kept)
        return cls(run.model, run.precision)

    def __call__(self, images: Tensor | NDArray[Any], *, batch_size: int | None = None) -> Encoding:
        """Encode a batch of any size.

        Args:
            images: (B, C, H, W), or (B, H, W) for a model of one channel; bool, uint8 from 0 to 255 or floating point
                from 0 to 1; on any device. A uint8 batch with no other values than 0 and 1 is binary, as a file of images
                is: 1 is white. To encode grey images that are so dark, divide them by 255.
            batch_size: number of images encoded at a time; by default a size that suits the device.
        Returns: an `Encoding`, whose KLs are in nats.
        Raises: ValueError for images of another shape than the model's, floating-point pixels outside [0, 1] (NaN
            included), or a batch size below 1; TypeError for another dtype, or a batch size that is no integer.
        """
        pixels = as_batch(images, self.model)
        if pixels.is_floating_point() and not bool(((pixels >= 0) & (pixels <= 1)).all()):  # NaN fails, too
            raise ValueError(f"floating-point pixels must lie in [0, 1], got {_range_and_remedy(pixels)}")
        return encode_batch(self.model, pixels, batch_size=batch_size, precision=self.precision)


def as_batch(images: Tensor | NDArray[Any], model: BetaVAE) -> Tensor:
    """The images as a batch (B, C, H, W) for ``model``; those of one channel may come as (B, H, W).

    A uint8 batch with no other values than 0 and 1 becomes bool, as in ``load_array``.

    Raises: ValueError for images of another shape than the model's.
    """
    pixels = images if isinstance(images, Tensor) else _as_tensor(images)
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(1)
    if pixels.dim() != 4 or pixels.shape[1:] != model.image_shape:
        channels, height, width = model.image_shape
        grey = f" or (B, {height}, {width})" if channels == 1 else ""
        raise ValueError(
            f"images must have shape (B, {channels}, {height}, {width}){grey}, got {tuple(images.shape)}"
        )
    if pixels.dtype == torch.uint8 and pixels.numel() and int(pixels.max()) <= 1:
        return pixels.bool()
    return pixels


def _as_tensor(images: NDArray[Any]) -> Tensor:
    """The array as a tensor: a copy if its bytes or rows are in an order that torch lacks, else a view."""
    array = np.require(images, images.dtype.newbyteorder("="), "C")
    with warnings.catch_warnings():
        # Nothing writes to the images, so that a large file need not be copied.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _range_and_remedy(pixels: Tensor) -> str:
    """The range of pixels that are not in [0, 1], and advice."""
    low, high = float(pixels.min()), float(pixels.max())
    if math.isnan(low):
        return "NaN"
    is_bytes = low >= 0 and high <= 255
    return f"{low:g} to {high:g}; {'pass uint8 pixels as they are' if is_bytes else 'scale them'}"


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
        dataset: the images, which are gathered on their own device, batch by batch.
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
    chosen = (torch.arange(len(dataset)) if indices is None else indices).to(dataset.device)

    def read(part: slice) -> Tensor:
        return dataset.gather(chosen[part])

    return _encode(model, len(chosen), dataset.image_shape, read, batch_size, precision, on_images)


def encode_batch(
    model: BetaVAE,
    images: Tensor,
    *,
    batch_size: int | None = None,
    precision: torch.dtype = torch.float32,
) -> Encoding:
    """The posteriors of the images (B, C, H, W) of the model's shape, whose pixels are not checked."""
    return _encode(model, len(images), model.image_shape, images.__getitem__, batch_size, precision)


def _encode(
    model: BetaVAE,
    count: int,
    image_shape: tuple[int, ...],
    read: Callable[[slice], Tensor],
    batch_size: int | None,
    precision: torch.dtype,
    on_images: Callable[[int], object] = lambda count: None,
) -> Encoding:
    """The posteriors of ``count`` images of one shape, of which ``read`` returns a part, on any device."""
    device = next(model.parameters()).device
    check_precision(precision)
    size = _BATCH.get(device.type, 1024) if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise TypeError(f"batch_size must be an integer, got {size!r}")
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}")
    rows = min(size, count)
    if batch_size is None:  # a part for each thread
        rows = min(rows, -(-count // torch.get_num_threads()))
    with torch.inference_mode():
        packed = _packed(model, image_shape, rows, precision)
    if packed is not None:
        size = rows
    # Made outside inference mode, so that the codes can be inputs of a network that is trained.
    moments = torch.empty(2, count, model.latent_dim, device=device)
    reading = Lock()  # a data set serves one thread at a time

    def write(moments_of: Callable[[Tensor], Tensor], start: int) -> int:
        with torch.inference_mode():  # inference mode holds for one thread
            with reading:
                images = read(slice(start, start + size)).to(device)
            moments[:, start : start + size] = moments_of(images).unflatten(1, (2, -1)).movedim(1, 0)
        return len(images)

    def layer_by_layer(images: Tensor) -> Tensor:
        with autocast(device, precision):
            return torch.cat(model.encode(images), dim=1)

    parts = range(0, count, size)
    with nullcontext(map) if packed is None else side_by_side() as run:
        for done in run(partial(write, packed or layer_by_layer), parts):
            on_images(done)
    mu, logvar = moments.cpu()
    return Encoding(mu, model.latent.clamped(logvar))


def _packed(
    model: BetaVAE, image_shape: tuple[int, ...], rows: int, precision: torch.dtype
) -> Callable[[Tensor], Tensor] | None:
    """The packed encoder, from images to their moments (B, 2·D).

    None if ``model.encode`` must run itself: off the CPU, replaced, for images that it refuses, or with layers that
    ``pack`` does not take.
    """
    if (
        next(model.parameters()).device.type != "cpu"
        or type(model).encode is not BetaVAE.encode
        or "encode" in vars(model)
        or image_shape != model.image_shape
        or rows == 0
    ):
        return None
    encoder = pack(model.encoder, torch.zeros(rows, *model.image_shape), precision)
    return None if encoder is None else lambda images: encoder(to_float(images, precision))

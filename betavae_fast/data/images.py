"""The data sets of the trainer, which gather images by index.

`BinaryImages` keeps one bit per pixel in memory, `ByteImages` one byte per pixel. Both use torch operations only, so that
after `.to("cuda")` batches are made on the GPU without using the host. Sets too large for memory are `arrays.DiskImages`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from betavae_fast.system_memory import fits_shared_memory

from .bits import bit_table, expand_bytes
from .identity import DataIdentity, identify

if TYPE_CHECKING:
    from typing_extensions import Self


class ImageDataset(ABC):
    """N images of one shape.

    Attributes:
        name: name of the data, for logs and run folders.
        image_shape: (C, H, W) of every image.
    """

    name: str
    image_shape: tuple[int, int, int]

    def __init__(self, name: str, image_shape: tuple[int, int, int]) -> None:
        self.name = name
        self.image_shape = image_shape

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.image_shape))
        images = f"{len(self):,} image{'' if len(self) == 1 else 's'}"
        return f"{type(self).__name__}({self.name!r}, {images} of {shape}, on {self.device})"

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the batches that `gather` makes and of its indices."""

    @abstractmethod
    def to(self, device: torch.device | str) -> ImageDataset:
        """The same data set on `device`."""

    def share(self) -> bool:
        """Move the images into memory that processes of this machine share, so that a process to which this data set is
        sent needs no copy. False if there is too little of such memory. Images on disk are shared as they are."""
        return True

    @cached_property
    def identity(self) -> DataIdentity:
        """The number, shape and checksum of the images, computed once."""
        return identify(self)

    def gather(self, indices: Tensor) -> Tensor:
        """The images at `indices`, in that order, as a new dense tensor on this data set's device.

        Images of bytes with several channels are in channels_last, the fastest format for convolutions.

        Args:
            indices: int64, shape (B,), on this data set's device; repeats are allowed.
        Returns: (B, C, H, W), bool for binary images, else uint8 with pixels 0 to 255.
        Raises: TypeError for another dtype; ValueError for another shape or device; IndexError outside [0, N).
            On a GPU the kernel asserts the range instead, so that a CUDA graph can capture this call.
        """
        check_indices(indices, len(self), self.name)
        if indices.device != self.device:
            raise ValueError(f"{self.name}: indices are on {indices.device}, the images on {self.device}")
        return self._take(indices)

    def mean_image(self) -> Tensor:
        """The mean over all images: float32 (C, H, W) in [0, 1].

        The sums are integers and divided once, so that the mean is exact to float32 rounding and the same on every
        device. It is the best constant prediction, and so the baseline that a model must beat.
        """
        # Divide on the CPU, because not every device has float64.
        mean = self._pixel_sums().cpu().double() / (len(self) * self._full_scale)
        return mean.float().view(self.image_shape).to(self.device)

    @abstractmethod
    def canonical_bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """The pixels of images `start` to `stop` as bytes that do not depend on how the set is stored.

        Binary images are packed as in `bits`; others are uint8 (C, H, W).
        """

    _full_scale: int
    """The value of a pixel that is fully on."""

    @abstractmethod
    def _take(self, indices: Tensor) -> Tensor:
        """The images at checked indices."""

    @abstractmethod
    def _pixel_sums(self) -> Tensor:
        """The sum of each pixel over all images: int64, C·H·W elements."""


class _ImagesInMemory(ImageDataset):
    """Images held in one uint8 tensor, `store`, with one row per image in a layout that the subclass defines."""

    store: Tensor

    def __init__(self, name: str, store: Tensor, image_shape: tuple[int, int, int]) -> None:
        super().__init__(name, image_shape)
        self.store = store

    def __len__(self) -> int:
        return self.store.shape[0]

    @property
    def device(self) -> torch.device:
        return self.store.device

    def to(self, device: torch.device | str) -> Self:
        """The same data set with its store on `device`. If the store is there already, it is shared."""
        moved = copy.copy(self)
        moved.store = self.store.to(device)
        return moved

    def share(self) -> bool:
        # A write to shared memory that does not exist would end the process.
        if not self.store.is_shared() and not fits_shared_memory(self.store.nbytes):
            return False
        self.store.share_memory_()
        return True

    def canonical_bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        rows: npt.NDArray[np.uint8] = self.store[start:stop].cpu().contiguous().numpy()
        return rows

    def _pixel_sums(self) -> Tensor:
        total = torch.zeros(prod(self.image_shape), dtype=torch.int64, device=self.device)
        for start in range(0, len(self), self._sum_block):
            total += self._pixel_sum(self.store[start : start + self._sum_block]).flatten()
        return total

    _sum_block: int
    """Number of rows that `_pixel_sum` can sum at once."""

    @abstractmethod
    def _pixel_sum(self, rows: Tensor) -> Tensor:
        """The sum of each pixel over these rows of the store: int64, C·H·W elements."""


class BinaryImages(_ImagesInMemory):
    """Images whose pixels are on or off, one bit each: `store` is (N, ceil(C·H·W / 8)), packed as in `bits`.

    >>> from betavae_fast.data.bits import pack_bits
    >>> pixels = torch.eye(4).bool().view(2, 1, 2, 4)
    >>> images = BinaryImages("diagonal", torch.from_numpy(pack_bits(pixels.numpy())), (1, 2, 4))
    >>> torch.equal(images.gather(torch.tensor([1, 0])), pixels[[1, 0]])
    True
    """

    _sum_block = 255 * 32
    _full_scale = 1

    def __init__(self, name: str, store: Tensor, image_shape: tuple[int, int, int]) -> None:
        super().__init__(name, store, image_shape)
        self._pixels = prod(image_shape)
        self._table = bit_table().to(store.device)

    def to(self, device: torch.device | str) -> Self:
        moved = super().to(device)
        moved._table = self._table.to(device)
        return moved

    def _take(self, indices: Tensor) -> Tensor:
        pixels = expand_bytes(self.store.index_select(0, indices), self._table).view(torch.bool)
        if pixels.shape[1] != self._pixels:
            pixels = pixels[:, : self._pixels].contiguous()
        return pixels.view(-1, *self.image_shape)

    def _pixel_sum(self, rows: Tensor) -> Tensor:
        # Eight sums at once: each byte of an int64 can count to 255 before it carries into the next byte.
        lanes = expand_bytes(rows, self._table)
        groups, width = len(lanes) // 255, lanes.shape[1]
        whole = lanes[: groups * 255].view(groups, 255, width).sum(1)
        rest = lanes[groups * 255 :].sum(0, keepdim=True)
        return torch.cat([whole, rest]).view(torch.uint8).sum(0, dtype=torch.int64)[: self._pixels]


class ByteImages(_ImagesInMemory):
    """Images of 8-bit pixels: `store` is (N, C, H, W), 0 to 255, in channels_last; another format is copied.

    >>> images = ByteImages("ramp", torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2), (1, 2, 2))
    >>> images.gather(torch.tensor([1])).flatten().tolist()
    [4, 5, 6, 7]
    """

    _sum_block = 4096
    _full_scale = 255

    def __init__(self, name: str, store: Tensor, image_shape: tuple[int, int, int]) -> None:
        super().__init__(name, store.contiguous(memory_format=torch.channels_last), image_shape)

    def _take(self, indices: Tensor) -> Tensor:
        return from_channels_last(self.store.permute(0, 2, 3, 1).index_select(0, indices))

    def _pixel_sum(self, rows: Tensor) -> Tensor:
        # Sum in the order of memory, which is four times as fast in torch.
        return rows.permute(0, 2, 3, 1).sum(0, dtype=torch.int64).permute(2, 0, 1)


def from_channels_last(rows: Tensor) -> Tensor:
    """View pixels (B, H, W, C) as images (B, C, H, W).

    Their memory format is channels_last. Images of a single channel are both contiguous and channels_last; they get the
    strides of the contiguous format.
    """
    return rows.movedim(3, 1) if rows.shape[3] > 1 else rows.squeeze(3).unsqueeze(1)


def check_indices(indices: Tensor, length: int, owner: str) -> None:
    """Refuse indices that are not a 1-D int64 tensor of values in [0, length).

    The range is checked only on the CPU. On a GPU, reading it would stall the stream and break graph capture; there, the
    gather kernel itself asserts the range.

    Raises: TypeError (not an int64 tensor), ValueError (not 1-D), IndexError (out of range).
    """
    if not isinstance(indices, Tensor):
        raise TypeError(f"{owner}: indices must be an int64 tensor, got {type(indices).__name__}")
    if indices.dtype != torch.int64:
        raise TypeError(f"{owner}: indices must be int64, got {indices.dtype}")
    if indices.ndim != 1:
        raise ValueError(f"{owner}: indices must have one dimension, got shape {tuple(indices.shape)}")
    if indices.device.type == "cpu" and indices.numel() > 0:
        low, high = (int(bound) for bound in indices.aminmax())
        if low < 0 or high >= length:
            wrong = low if low < 0 else high
            raise IndexError(
                f"{owner}: index {wrong} is out of range, there are {length} images (0 to {length - 1})"
            )

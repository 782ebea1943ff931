"""Images of any data set, in memory or on disk, together with their known factors."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .factors import GridFactors, KnownFactors, TableFactors
from .identity import DataIdentity
from .images import ImageDataset

if TYPE_CHECKING:
    from typing_extensions import Self


class FactorColumns(NamedTuple):
    """Factors of N images, as columns of a table.

    Attributes:
        names: the names of the K factors.
        values: the values of each factor's classes, float64 (size,).
        classes: int32 (N, K), the class of each image and factor.
    """

    names: tuple[str, ...]
    values: tuple[npt.NDArray[np.float64], ...]
    classes: npt.NDArray[np.int32]


class LabelledImages(KnownFactors, ImageDataset):
    """A data set that hands on the images of another one, without copying them, and knows their factors.

    It is a `GridImages` or a `TableImages`.

    Attributes:
        images: the other data set; a `FolderImages` if they are read from a folder when they are needed.
    """

    def __init__(
        self, name: str, images: ImageDataset, names: tuple[str, ...], values: tuple[Tensor, ...]
    ) -> None:
        super().__init__(name, images.image_shape)
        self.images = images
        self.factor_names, self.factor_values = names, values

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device | str) -> Self:
        """The same data set with its images on `device`."""
        return self.replaced(self.images.to(device))

    def replaced(self, images: ImageDataset) -> Self:
        """The same data set with `images`, the same ones held elsewhere."""
        moved = copy.copy(self)
        moved.images = images
        return moved

    def share(self) -> bool:
        return self.images.share()

    @property
    def identity(self) -> DataIdentity:
        """The number, shape and checksum of the images, computed once. The factors are no part of it."""
        return self.images.identity

    def mean_image(self) -> Tensor:
        return self.images.mean_image()

    def canonical_bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self.images.canonical_bytes(start, stop)

    def _take(self, indices: Tensor) -> Tensor:
        return self.images._take(indices)

    def _pixel_sums(self) -> Tensor:
        return self.images._pixel_sums()


class GridImages(GridFactors, LabelledImages):
    """Images that enumerate all combinations of their factors, such as 3D Shapes, MPI3D and Cars3D."""

    def __init__(self, name: str, images: ImageDataset, factors: dict[str, npt.NDArray[np.float64]]) -> None:
        super().__init__(name, images, tuple(factors), tuple(map(torch.from_numpy, factors.values())))


class TableImages(TableFactors, LabelledImages):
    """Images with a table of factors, such as smallNORB, CelebA, and one's own with `factors=`."""

    def __init__(self, name: str, images: ImageDataset, factors: FactorColumns) -> None:
        super().__init__(name, images, factors.names, tuple(map(torch.from_numpy, factors.values)))
        self.factor_classes = torch.from_numpy(factors.classes)


def unlabelled(dataset: ImageDataset) -> ImageDataset:
    """The images of ``dataset`` without the factors that were put beside them."""
    return dataset.images if isinstance(dataset, LabelledImages) else dataset

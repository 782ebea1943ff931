"""The known generative factors of images: as a grid of all combinations, or as a table with a row for each image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod

import torch
from torch import Tensor

from .images import check_indices


class KnownFactors(ABC):
    """Mixin for an `ImageDataset` whose images have known factors, as a `GridFactors` or a `TableFactors`.

    Disentanglement can be measured on a data set if `isinstance(dataset, KnownFactors)`.

    Attributes:
        factor_names: the names of the K factors.
        factor_values: the table of values of each factor, float64 (size,); entry c is the value of class c. The values
            of a factor in words are the numbers of its classes.
    """

    name: str
    factor_names: tuple[str, ...]
    factor_values: tuple[Tensor, ...]

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        """The number of classes of each factor."""
        return tuple(len(values) for values in self.factor_values)

    @abstractmethod
    def factors(self, indices: Tensor) -> Tensor:
        """The factor classes of images: int64 (B,) -> int64 (B, K), each in [0, size).

        Raises: the errors of `ImageDataset.gather`.
        """


class GridFactors(KnownFactors):
    """Factors of images that enumerate all combinations once, the first factor varying slowest and the last fastest."""

    @property
    def factor_bases(self) -> tuple[int, ...]:
        """The step of the index when a factor's class grows by one: index = Σ class · base."""
        sizes = self.factor_sizes
        return tuple(prod(sizes[k + 1 :]) for k in range(len(sizes)))

    def factors(self, indices: Tensor) -> Tensor:
        check_indices(indices, prod(self.factor_sizes), self.name)
        bases = torch.tensor(self.factor_bases, device=indices.device)
        sizes = torch.tensor(self.factor_sizes, device=indices.device)
        return indices.unsqueeze(1) // bases % sizes

    def index(self, factors: Tensor) -> Tensor:
        """The inverse of `factors`: classes int64 (B, K) -> image indices int64 (B,).

        Raises: TypeError for another dtype, ValueError for another shape, IndexError for a class out of
            range.
        """
        if not isinstance(factors, Tensor) or factors.dtype != torch.int64:
            got = factors.dtype if isinstance(factors, Tensor) else type(factors).__name__
            raise TypeError(f"{self.name}: factors must be an int64 tensor, got {got}")
        if factors.ndim != 2 or factors.shape[1] != len(self.factor_names):
            raise ValueError(
                f"{self.name}: factors must have shape (B, {len(self.factor_names)}) for "
                f"{', '.join(self.factor_names)}, got {tuple(factors.shape)}"
            )
        sizes = torch.tensor(self.factor_sizes, device=factors.device)
        wrong = (factors < 0) | (factors >= sizes)
        if wrong.any():
            row, factor = (int(position) for position in wrong.nonzero()[0])
            raise IndexError(
                f"{self.name}: {self.factor_names[factor]} has classes 0 to {self.factor_sizes[factor] - 1}, "
                f"got {int(factors[row, factor])} in row {row}"
            )
        return (factors * torch.tensor(self.factor_bases, device=factors.device)).sum(1)


class TableFactors(KnownFactors):
    """Factors of images in any order and number, such as photographs with labels.

    Attributes:
        factor_classes: the class of each image and factor, integers (N, K), on the CPU.
    """

    factor_classes: Tensor

    def factors(self, indices: Tensor) -> Tensor:
        check_indices(indices, len(self.factor_classes), self.name)
        return self.factor_classes.index_select(0, indices.cpu()).to(indices.device, torch.int64)

"""The order in which a run sees its images: a pure function of (seed, epoch)."""

from __future__ import annotations

import torch
from torch import Tensor


class ShuffledBatches:
    """Batch indices of a data set, reshuffled every epoch.

    Each epoch is a fresh permutation cut into whole batches; the few images left over sit out that epoch.

    Args:
        images: indices of the ``dataset_size`` images to draw from, int64; None: 0 to ``dataset_size`` − 1.
    Raises: ValueError if the data set does not fill one batch.

    >>> batches = ShuffledBatches(dataset_size=10, batch_size=4, seed=0)
    >>> batches.per_epoch, batches.epoch(3).shape, bool((batches.epoch(3) == batches.epoch(3)).all())
    (2, torch.Size([2, 4]), True)
    """

    def __init__(self, dataset_size: int, batch_size: int, seed: int, images: Tensor | None = None) -> None:
        if batch_size > dataset_size:
            raise ValueError(
                f"batch_size {batch_size} is larger than the data set, which has {dataset_size} images to train on"
            )
        self.dataset_size = dataset_size
        self.batch_size = batch_size
        self.seed = seed
        self.images = images
        self.per_epoch = dataset_size // batch_size

    def epoch(self, number: int) -> Tensor:
        """The batches of an epoch (from 0), in order: int64 of shape (per_epoch, batch_size)."""
        # The spread keeps seeds apart: with seed + number, epoch 1 of seed 0 would repeat epoch 0 of seed 1.
        generator = torch.Generator().manual_seed(self.seed)
        spread = int(torch.randint(2**62, (), generator=generator))
        order = torch.randperm(self.dataset_size, generator=generator.manual_seed((spread + number) % 2**62))
        order = order[: self.per_epoch * self.batch_size].view(self.per_epoch, self.batch_size)
        return order if self.images is None else self.images[order]

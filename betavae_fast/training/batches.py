"""The order in which a run sees its images: a pure function of (seed, step)."""

from __future__ import annotations

import torch
from torch import Tensor


class ShuffledBatches:
    """Batch indices of a data set, reshuffled every epoch; ``batches[step]`` is the same on every call.

    Each epoch is a fresh permutation cut into whole batches; the few images left over sit out that epoch.

    Raises: ValueError if the data set does not fill one batch.

    >>> batches = ShuffledBatches(dataset_size=10, batch_size=4, seed=0)
    >>> batches.per_epoch, batches[5].shape, bool((batches[5] == batches[5]).all())
    (2, torch.Size([4]), True)
    """

    def __init__(self, dataset_size: int, batch_size: int, seed: int) -> None:
        if batch_size > dataset_size:
            raise ValueError(
                f"batch_size {batch_size} is larger than the data set, which has {dataset_size} images"
            )
        self.dataset_size = dataset_size
        self.batch_size = batch_size
        self.seed = seed
        self.per_epoch = dataset_size // batch_size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, step: int) -> Tensor:
        """The indices of batch ``step`` (from 0), int64 of shape (batch_size,)."""
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            # One generator seeded twice: the first draw spreads (seed, epoch) so that neighbouring seeds
            # share nothing.
            generator = torch.Generator().manual_seed(self.seed)
            spread = int(torch.randint(2**62, (), generator=generator))
            self._order = torch.randperm(
                self.dataset_size, generator=generator.manual_seed((spread + epoch) % 2**62)
            )
            self._epoch = epoch
        return self._order[batch * self.batch_size : (batch + 1) * self.batch_size]

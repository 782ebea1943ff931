"""Means of what every step measures, added up on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from betavae_fast.training.distributed import sum_over_processes


class RunningMeans:
    """Means of named vectors over additions: nothing waits for the device until ``read``.

    The sums are one flat tensor of fixed address, so a CUDA graph can add to it and processes can exchange it
    in one message.

    Args:
        sizes: the number of elements of each.

    >>> means = RunningMeans("cpu", loss=1, kl=2)
    >>> for x in (1.0, 3.0): means.add(loss=torch.tensor(x), kl=torch.tensor([x, 0.0]))
    >>> means.read(count=2)
    {'loss': tensor([2.], dtype=torch.float64), 'kl': tensor([2., 0.], dtype=torch.float64)}
    """

    def __init__(self, device: torch.device | str, **sizes: int) -> None:
        self._sizes = sizes
        self._sums = torch.zeros(sum(sizes.values()), device=device)

    def add(self, **values: Tensor) -> None:
        """Add one value for each name."""
        self._sums += torch.cat([values[name].detach().view(size) for name, size in self._sizes.items()])

    def read(self, count: int) -> dict[str, Tensor]:
        """The means over ``count`` additions, in all processes together, as float64 on the CPU; starts anew."""
        means = sum_over_processes(self._sums.cpu().double()) / count
        self._sums.zero_()
        return dict(zip(self._sizes, means.split(list(self._sizes.values())), strict=True))

"""Means of the quantities that every step measures, summed on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from betavae_fast.processes import sum_over_processes


class RunningMeans:
    """Running means of named vectors. Adding to them does not wait for the device.

    The sums are one flat tensor of fixed address, so a CUDA graph can add to it and processes can exchange it
    in one message.

    Args:
        sizes: the number of elements of each vector.

    >>> means = RunningMeans("cpu", loss=1, kl=2)
    >>> for x in (1.0, 3.0): means.add(loss=torch.tensor(x), kl=torch.tensor([x, 0.0]))
    >>> means.read(count=2)
    {'loss': tensor([2.], dtype=torch.float64), 'kl': tensor([2., 0.], dtype=torch.float64)}
    """

    def __init__(self, device: torch.device | str, **sizes: int) -> None:
        self._names = tuple(sizes)
        self._sums = torch.zeros(sum(sizes.values()), device=device)
        self._parts = self._sums.split(list(sizes.values()))

    def add(self, **values: Tensor) -> None:
        """Add one value for each name."""
        torch._foreach_add_(
            self._parts,
            [
                values[name].detach().view_as(part)
                for name, part in zip(self._names, self._parts, strict=True)
            ],
        )

    def read(self, count: int) -> dict[str, Tensor]:
        """The means over ``count`` additions in all processes together, as float64 on the CPU. Resets the sums."""
        sums = self.take()
        if self._sums.is_cuda:
            torch.cuda.current_stream(self._sums.device).synchronize()
        return self.divide(sums, count)

    def take(self) -> Tensor:
        """A copy of the sums on the CPU; on a GPU it is filled once the work queued so far is done. Resets the sums."""
        on_gpu = self._sums.is_cuda
        sums = torch.empty_like(self._sums, device="cpu", pin_memory=on_gpu)
        sums.copy_(self._sums, non_blocking=on_gpu)
        self._sums.zero_()
        return sums

    def divide(self, sums: Tensor, count: int) -> dict[str, Tensor]:
        """The means over ``count`` additions, as from ``read``, of sums that ``take`` returned."""
        means = sum_over_processes(sums.double()) / count
        return dict(zip(self._names, means.split([part.numel() for part in self._parts]), strict=True))

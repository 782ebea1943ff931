"""Groups of a batch's rows, small enough for the many steps of a formula in plain torch to work in the cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_ELEMENTS_A_THREAD = 1 << 17


def row_groups(like: Tensor, *others: Tensor | None) -> Iterable[tuple[Any, ...]]:
    """Groups of the same rows of ``like`` and of the others; None stays None. Off the CPU, one group of all rows."""
    at_once = torch.get_num_threads() * _ELEMENTS_A_THREAD
    if like.numel() <= at_once or like.device.type != "cpu":
        return ((like, *others),)
    size = max(1, at_once // like.shape[1:].numel())
    number = -(-len(like) // size)
    parts = ((None,) * number if x is None else x.split(size) for x in (like, *others))
    return zip(*parts, strict=True)


def total(sums: list[Tensor]) -> Tensor:
    """The sum over groups, each of which gives one number or one row of numbers."""
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

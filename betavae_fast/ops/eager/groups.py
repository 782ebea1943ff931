"""Batches a group of rows at a time: the many small steps of a formula in plain torch find their numbers in the cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_ELEMENTS_A_THREAD = 1 << 17


def row_groups(like: Tensor, *others: Tensor | None) -> Iterable[tuple[Any, ...]]:
    """The same rows of ``like`` and of each other tensor of its batch, None in place of None. Off the CPU: all rows."""
    at_once = torch.get_num_threads() * _ELEMENTS_A_THREAD
    if like.numel() <= at_once or like.device.type != "cpu":
        return ((like, *others),)
    size = max(1, at_once // like.shape[1:].numel())
    number = -(-len(like) // size)
    parts = ((None,) * number if x is None else x.split(size) for x in (like, *others))
    return zip(*parts, strict=True)


def total(sums: list[Tensor]) -> Tensor:
    """Of one number, or one row of them, from each group."""
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

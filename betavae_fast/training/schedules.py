"""The learning rate over a run: a pure function of the number of steps done, on whatever device that number is.

Only operations on that number: nothing is copied from the host, so that a CUDA graph can hold them. An objective's
weights move likewise (``betavae_fast.objectives``).
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from betavae_fast.training.config import TrainConfig


def is_constant(config: TrainConfig) -> bool:
    """Whether every update has the same learning rate."""
    return config.lr_schedule == "constant" and not config.lr_warmup


def learning_rate(step: Tensor, config: TrainConfig) -> Tensor:
    """The learning rate of the update that follows ``step`` others; float64 scalar.

    ``lr``, or a half cosine from there to 0 over ``steps``; over the first ``lr_warmup`` steps it is scaled
    by 1/lr_warmup, 2/lr_warmup, ..., 1.

    >>> config = TrainConfig(lr=0.5, lr_schedule="cosine", steps=100)
    >>> [round(float(learning_rate(torch.tensor(step), config)), 3) for step in (0, 50, 99)]
    [0.5, 0.25, 0.0]
    """
    rate = torch.full_like(step, config.lr, dtype=torch.float64)
    if config.lr_schedule == "cosine":
        rate *= 0.5 + 0.5 * torch.cos(step.double() * (pi / config.steps))
    if config.lr_warmup:
        rate *= ((step.double() + 1) / config.lr_warmup).clamp(max=1)
    return rate

"""The learning rate over a run: a pure function of the number of steps done, computed on that number's device.

Nothing is copied from the host, so that a CUDA graph can record the computation. The objectives' weights are computed
in the same way (``betavae_fast.objectives``).
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from betavae_fast.training.config import TrainConfig


def is_constant(config: TrainConfig) -> bool:
    """Tell whether every update has the same learning rate."""
    return config.lr_schedule == "constant" and not config.lr_warmup


def learning_rate(step: Tensor, config: TrainConfig) -> Tensor:
    """The learning rate of the update after ``step`` earlier ones, a float64 scalar.

    It is ``lr``, or ``lr`` for ``lr_hold`` steps and then a half cosine to 0 over the rest of ``steps``. Over the first
    ``lr_warmup`` steps it is scaled by 1/lr_warmup, 2/lr_warmup, ..., 1.

    >>> config = TrainConfig(lr=0.5, lr_schedule="cosine", steps=100)
    >>> [round(float(learning_rate(torch.tensor(step), config)), 3) for step in (0, 50, 99)]
    [0.5, 0.25, 0.0]
    """
    rate = torch.full_like(step, config.lr, dtype=torch.float64)
    if config.lr_schedule == "cosine":
        after_hold = (step.double() - config.lr_hold).clamp(min=0)
        rate *= 0.5 + 0.5 * torch.cos(after_hold * (pi / max(1, config.steps - config.lr_hold)))
    if config.lr_warmup:
        rate *= ((step.double() + 1) / config.lr_warmup).clamp(max=1)
    return rate

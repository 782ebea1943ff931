"""GECO: the smallest KL at a given reconstruction loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log

import torch
from torch import Tensor

from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.options import GecoOptions
from betavae_fast.processes import mean_over_processes

_LARGEST = 1e10
"""Limit of the multiplier, which stays within [1/limit, limit], far inside float32's range."""


@dataclass(eq=False, repr=False)
class Geco(Objective, GecoOptions):
    """Minimise KL subject to reconstruction ≤ κ (GECO: Rezende & Viola 2018, arXiv:1810.00597, algorithm 1):
    KL + λ C with the constraint C = reconstruction − κ.

    λ starts at 1, as published. Each update sets λ ← λ exp(η C̄), which keeps it positive. C̄ ← α C̄ + (1 − α) C is a
    moving average that starts at the first batch's C.

    κ is the option ``reconstruction_limit``, which may be negative because densities can exceed 1; η is ``lr``, and α is
    ``decay``.

    Logs: ``multiplier``, the current λ; ``constraint``, C; ``slackness``, λ C, in nats.
    Raises: ValueError for a number out of its range.

    >>> d, x = torch.tensor([3.0, 1.0]), torch.zeros(1, 2)
    >>> inputs = LossInputs(torch.tensor(110.0), d, x, x, x, torch.tensor(0))
    >>> objective = Geco(reconstruction_limit=100.0, lr=0.1)
    >>> objective(inputs).total  # 4 + 1 × 10
    tensor(14.)
    >>> objective.update(inputs.reconstruction, inputs.kl)
    >>> objective(inputs).metrics["multiplier"]  # exp(0.1 × 10)
    tensor(2.7183)
    """

    logged = ("multiplier", "constraint", "slackness")
    log_multiplier: Tensor = field(init=False)
    average: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.register_buffer("log_multiplier", torch.tensor(0.0))
        self.register_buffer("average", torch.tensor(float("nan")))  # NaN until the first batch

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        multiplier = self.log_multiplier.exp()
        constraint = inputs.reconstruction - self.reconstruction_limit
        slackness = multiplier * constraint
        return ObjectiveOutput(
            inputs.kl + slackness,
            {"multiplier": multiplier, "constraint": constraint, "slackness": slackness},
        )

    @torch.no_grad()
    def update(self, reconstruction: Tensor, kl: Tensor) -> None:
        constraint = mean_over_processes(reconstruction) - self.reconstruction_limit
        before = torch.where(self.average.isnan(), constraint, self.average)
        self.average.copy_(torch.lerp(constraint, before, self.decay))
        self.log_multiplier.add_(self.average, alpha=self.lr).clamp_(-log(_LARGEST), log(_LARGEST))

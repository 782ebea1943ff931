"""The β-VAE: a fixed, warmed-up or cyclic weight of the KL."""

from __future__ import annotations

import torch

from betavae_fast.objectives.checks import check_not_negative
from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.schedules import ramp


class Beta(Objective):
    """Reconstruction + β KL (Higgins et al. 2017, equation 4; published β = 4 for dSprites).

    Args:
        beta: weight of the KL; 1 is the evidence lower bound.
        warmup: updates over which the weight grows linearly from 0.
        cycle: updates after which the warm-up starts again (Fu et al. 2019, see :func:`ramp`); 0: never.
    Logs: ``beta``, the current weight.
    Raises: ValueError for a number out of its range.

    >>> import torch
    >>> d, x = torch.tensor([0.5, 0.0]), torch.zeros(1, 2)
    >>> inputs = LossInputs(torch.tensor(10.0), d, z=x, mu=x, logvar=x, step=torch.tensor(1))
    >>> Beta(beta=4.0, warmup=2)(inputs).total  # half-way to β = 4
    tensor(11.)
    """

    logged = ("beta",)

    def __init__(self, beta: float = 4.0, *, warmup: int = 0, cycle: int = 0) -> None:
        super().__init__()
        check_not_negative("beta", beta)
        if warmup < 0:
            raise ValueError(f"warmup must be at least 0, got {warmup}")
        if cycle and not 0 < warmup <= cycle:
            raise ValueError(f"a cycle of {cycle} steps needs a warmup of 1 to {cycle}, got {warmup}")
        self.beta = beta
        self.warmup = warmup
        self.cycle = cycle

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        if not self.warmup:  # a constant weight takes fewer launches on a GPU
            total = torch.add(inputs.reconstruction, inputs.kl, alpha=self.beta)
            return ObjectiveOutput(total, {"beta": self._like(self.beta, inputs.reconstruction.detach())})
        beta = ramp(inputs.step, self.beta, self.warmup, self.cycle).to(inputs.reconstruction.dtype)
        return ObjectiveOutput(inputs.reconstruction + beta * inputs.kl, {"beta": beta})

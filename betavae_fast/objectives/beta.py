"""The β-VAE: a weight of the KL that is constant, grows from 0 (once or in cycles), or falls from a start."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.options import BetaOptions
from betavae_fast.objectives.schedules import geometric, ramp


@dataclass(eq=False, repr=False)
class Beta(Objective, BetaOptions):
    """Reconstruction + β KL (Higgins et al. 2017, equation 4).

    A warm-up, once or in cycles, is that of :func:`ramp`; the fall from a start is that of :func:`geometric`.

    Logs: ``beta``, the current weight.
    Raises: ValueError for a number out of its range.

    >>> import torch
    >>> d, x = torch.tensor([0.5, 0.0]), torch.zeros(1, 2)
    >>> inputs = LossInputs(torch.tensor(10.0), d, z=x, mu=x, logvar=x, step=torch.tensor(1))
    >>> Beta(beta=4.0, warmup=2)(inputs).total  # half-way to β = 4
    tensor(11.)
    """

    logged = ("beta",)

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        if self.start is not None:
            beta = geometric(inputs.step, self.start, self.beta, self.hold, self.steps)
        elif self.warmup:
            beta = ramp(inputs.step, self.beta, self.warmup, self.cycle)
        else:  # a constant weight takes fewer launches on a GPU
            total = torch.add(inputs.reconstruction, inputs.kl, alpha=self.beta)
            return ObjectiveOutput(total, {"beta": self._like(self.beta, inputs.reconstruction.detach())})
        beta = beta.to(inputs.reconstruction.dtype)
        return ObjectiveOutput(inputs.reconstruction + beta * inputs.kl, {"beta": beta})

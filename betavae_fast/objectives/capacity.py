"""A KL that is held at a growing capacity."""

from __future__ import annotations

from dataclasses import dataclass

from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.options import CapacityOptions
from betavae_fast.objectives.schedules import ramp
from betavae_fast.processes import mean_over_processes


@dataclass(eq=False, repr=False)
class Capacity(Objective, CapacityOptions):
    """Reconstruction + γ |KL − C(t)| (Burgess et al. 2018, arXiv:1804.03599, equation 8).

    KL is the mean over the batch, and C grows linearly from 0.

    Logs: ``capacity``, the current C.
    Raises: ValueError for a number out of its range.

    >>> import torch
    >>> d, x = torch.tensor([3.0, 1.0]), torch.zeros(1, 2)
    >>> inputs = LossInputs(torch.tensor(10.0), d, z=x, mu=x, logvar=x, step=torch.tensor(20_000))
    >>> Capacity()(inputs)  # C = 5 nats by now, and the KL is 4
    ObjectiveOutput(total=tensor(1010.), metrics={'capacity': tensor(5.)})
    """

    logged = ("capacity",)

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        capacity = ramp(inputs.step, self.capacity, self.steps).to(inputs.reconstruction.dtype)
        distance = (mean_over_processes(inputs.kl) - capacity).abs()
        return ObjectiveOutput(inputs.reconstruction + self.gamma * distance, {"capacity": capacity})

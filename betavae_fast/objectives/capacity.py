"""A KL that is held at a growing capacity."""

from __future__ import annotations

from betavae_fast.objectives.checks import check_not_negative
from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.processes import mean_over_processes
from betavae_fast.objectives.schedules import ramp


class Capacity(Objective):
    """Reconstruction + γ |KL − C(t)| (Burgess et al. 2018, arXiv:1804.03599, equation 8).

    KL is the mean over the batch, and C grows linearly from 0.

    Args (the defaults are the published ones, for dSprites):
        capacity: C at the end, in nats.
        steps: updates over which C grows.
        gamma: weight γ of the distance.
    Logs: ``capacity``, the current C.
    Raises: ValueError for a number out of its range.

    >>> import torch
    >>> d, x = torch.tensor([3.0, 1.0]), torch.zeros(1, 2)
    >>> inputs = LossInputs(torch.tensor(10.0), d, z=x, mu=x, logvar=x, step=torch.tensor(20_000))
    >>> Capacity()(inputs)  # C = 5 nats by now, and the KL is 4
    ObjectiveOutput(total=tensor(1010.), metrics={'capacity': tensor(5.)})
    """

    logged = ("capacity",)

    def __init__(self, capacity: float = 25.0, *, steps: int = 100_000, gamma: float = 1000.0) -> None:
        super().__init__()
        check_not_negative("capacity", capacity)
        check_not_negative("gamma", gamma)
        if steps < 0:
            raise ValueError(f"steps must be at least 0, got {steps}")
        self.capacity = capacity
        self.steps = steps
        self.gamma = gamma

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        capacity = ramp(inputs.step, self.capacity, self.steps).to(inputs.reconstruction.dtype)
        distance = (mean_over_processes(inputs.kl) - capacity).abs()
        return ObjectiveOutput(inputs.reconstruction + self.gamma * distance, {"capacity": capacity})

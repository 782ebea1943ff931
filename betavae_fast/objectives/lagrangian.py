"""The constrained problem from which the β-VAE is derived, with β as its multiplier."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.options import LagrangianOptions
from betavae_fast.processes import mean_over_processes
from betavae_fast.settings import not_negative


@dataclass(eq=False, repr=False)
class Lagrangian(Objective, LagrangianOptions):
    """Maximise E[log p(x|z)] subject to KL ≤ ε (Higgins et al. 2017, equations 2 and 3): the Lagrangian
    reconstruction + β (KL − ε) is minimised in the weights and maximised in β ≥ 0.

    β moves by projected gradient ascent, β ← max(0, β + η (KL − ε)), after each update of the weights: it grows while
    the constraint is violated, and falls towards 0 while it is slack. At a solution β (KL − ε) = 0 (complementary
    slackness): either β = 0 and the limit costs nothing, or KL = ε and β is the price of a nat: the amount by which
    the reconstruction would improve for one more. ε is the option ``kl_limit`` and η is ``lr``; too large a step makes β
    and KL oscillate.

    Args:
        beta: initial β.
    Logs: ``multiplier``, the current β; ``slackness``, β (KL − ε) in nats.
    Raises: ValueError for a number out of its range.

    >>> d, x = torch.tensor([3.0, 1.0]), torch.zeros(1, 2)
    >>> inputs = LossInputs(torch.tensor(10.0), d, x, x, x, torch.tensor(0))
    >>> objective = Lagrangian(kl_limit=2.0, lr=0.5)
    >>> objective(inputs).total
    tensor(12.)
    >>> objective.update(inputs.reconstruction, inputs.kl)
    >>> objective.multiplier
    tensor(2.)
    """

    logged = ("multiplier", "slackness")
    beta: float = field(default=1.0, kw_only=True)
    multiplier: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative("beta", self.beta)
        self.register_buffer("multiplier", torch.tensor(float(self.beta)))

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        # A copy, so that update does not change the logged value.
        multiplier = self.multiplier.clone()
        slackness = multiplier * (inputs.kl - self.kl_limit)
        return ObjectiveOutput(
            inputs.reconstruction + slackness, {"multiplier": multiplier, "slackness": slackness}
        )

    @torch.no_grad()
    def update(self, reconstruction: Tensor, kl: Tensor) -> None:
        violation = mean_over_processes(kl) - self.kl_limit
        self.multiplier.add_(violation, alpha=self.lr).clamp_(min=0)

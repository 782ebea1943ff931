"""Free bits: up to a limit, the KL of a latent dim costs nothing."""

from __future__ import annotations

from dataclasses import dataclass

from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.options import FreeBitsOptions
from betavae_fast.processes import mean_over_processes


@dataclass(eq=False, repr=False)
class FreeBits(Objective, FreeBitsOptions):
    """Reconstruction + Σ_d max(λ, KL_d) (Kingma et al. 2016, arXiv:1606.04934, appendix C.8, with one group per latent
    dim).

    λ is the option ``free_bits``, and KL_d the mean over the batch. A channel below λ is not pushed to collapse.

    Logs: ``charged_kl``, Σ_d max(λ, KL_d).
    Raises: ValueError for a number out of its range.

    >>> import torch
    >>> d, x = torch.tensor([3.0, 0.1]), torch.zeros(1, 2)
    >>> FreeBits(0.25)(LossInputs(torch.tensor(10.0), d, x, x, x, torch.tensor(0))).total
    tensor(13.2500)
    """

    logged = ("charged_kl",)

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        charged = mean_over_processes(inputs.kl_per_dim).clamp(min=self.free_bits).sum()
        return ObjectiveOutput(inputs.reconstruction + charged, {"charged_kl": charged})

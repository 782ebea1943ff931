"""Free bits: up to a limit, the KL of a latent dim costs nothing."""

from __future__ import annotations

from betavae_fast.objectives.checks import check_not_negative
from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.processes import mean_over_processes


class FreeBits(Objective):
    """Reconstruction + Σ_d max(λ, KL_d) (Kingma et al. 2016, arXiv:1606.04934, appendix C.8, with one group per latent
    dim).

    KL_d is the mean over the batch. A channel below λ is not pushed to collapse.

    Args:
        free_bits: λ, in nats per latent dim (not in bits, despite the name). Published values: 0.125 to 2.
    Logs: ``charged_kl``, Σ_d max(λ, KL_d).
    Raises: ValueError for a number out of its range.

    >>> import torch
    >>> d, x = torch.tensor([3.0, 0.1]), torch.zeros(1, 2)
    >>> FreeBits(0.25)(LossInputs(torch.tensor(10.0), d, x, x, x, torch.tensor(0))).total
    tensor(13.2500)
    """

    logged = ("charged_kl",)

    def __init__(self, free_bits: float = 0.25) -> None:
        super().__init__()
        check_not_negative("free_bits", free_bits)
        self.free_bits = free_bits

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        charged = mean_over_processes(inputs.kl_per_dim).clamp(min=self.free_bits).sum()
        return ObjectiveOutput(inputs.reconstruction + charged, {"charged_kl": charged})

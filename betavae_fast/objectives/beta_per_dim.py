"""The β-VAE with a weight of its own for the KL of each latent dim."""

from __future__ import annotations

from dataclasses import dataclass

from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.options import BetaPerDimOptions


@dataclass(eq=False, repr=False)
class BetaPerDim(Objective, BetaPerDimOptions):
    """Reconstruction + Σ_d β_d KL_d, for example with a low weight for a group of channels that is to be used.

    With all β_d equal it is :class:`Beta`.

    Logs: ``weighted_kl``, Σ_d β_d KL_d.
    Raises: ValueError for a weight out of its range, or when called with another number of latent dims.

    >>> import torch
    >>> d, x = torch.tensor([0.5, 2.0]), torch.zeros(1, 2)
    >>> BetaPerDim([1.0, 4.0])(LossInputs(torch.tensor(10.0), d, x, x, x, torch.tensor(0))).total
    tensor(18.5000)
    """

    logged = ("weighted_kl",)

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        if inputs.kl_per_dim.shape != (len(self.betas),):
            raise ValueError(
                f"{len(self.betas)} betas for latent dims of shape {tuple(inputs.kl_per_dim.shape)}"
            )
        weighted = (self._like(tuple(self.betas), inputs.kl_per_dim.detach()) * inputs.kl_per_dim).sum()
        return ObjectiveOutput(inputs.reconstruction + weighted, {"weighted_kl": weighted})

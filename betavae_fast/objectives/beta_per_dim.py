"""The β-VAE with a weight of its own for the KL of each latent dim."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from betavae_fast.objectives.checks import check_not_negative
from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput


class BetaPerDim(Objective):
    """Reconstruction + Σ_d β_d KL_d, for example with a low weight for a group of channels that is to be used.

    With all β_d equal it is :class:`Beta`.

    Args:
        betas: one weight for each latent dim, at least 0.
    Logs: ``weighted_kl``, Σ_d β_d KL_d.
    Raises: ValueError for a weight out of its range, or when called with another number of latent dims.

    >>> d, x = torch.tensor([0.5, 2.0]), torch.zeros(1, 2)
    >>> BetaPerDim([1.0, 4.0])(LossInputs(torch.tensor(10.0), d, x, x, x, torch.tensor(0))).total
    tensor(18.5000)
    """

    logged = ("weighted_kl",)
    _betas: Tensor

    def __init__(self, betas: Sequence[float]) -> None:
        super().__init__()
        for beta in betas:
            check_not_negative("each of betas", beta)
        self.register_buffer("_betas", torch.tensor(betas, dtype=torch.float64), persistent=False)

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        if inputs.kl_per_dim.shape != self._betas.shape:
            raise ValueError(
                f"{len(self._betas)} betas for latent dims of shape {tuple(inputs.kl_per_dim.shape)}"
            )
        weighted = (self._betas.to(inputs.kl_per_dim.dtype) * inputs.kl_per_dim).sum()
        return ObjectiveOutput(inputs.reconstruction + weighted, {"weighted_kl": weighted})

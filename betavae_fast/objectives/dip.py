"""DIP-VAE: the covariance of the aggregated posterior is pulled towards the prior's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.options import DIPVAEIIOptions, DIPVAEIOptions
from betavae_fast.processes import mean_over_processes


def covariance(mu: Tensor) -> Tensor:
    """Cov(μ) = E[μ μᵀ] − E[μ] E[μ]ᵀ over the batch of all processes, of shape (D, D); E divides by B.

    >>> covariance(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))
    tensor([[1., 2.],
            [2., 4.]])
    """
    mu = mu.to(torch.promote_types(mu.dtype, torch.float32))
    # Centred first, so that nothing cancels. The mean needs no gradient: deviations from it sum to 0.
    deviation = mu - mean_over_processes(mu.detach().mean(0))
    with torch.autocast(mu.device.type, enabled=False):
        return mean_over_processes(deviation.T @ deviation / len(mu))


class _DIPVAE(Objective):
    """Reconstruction + KL + λ_od Σ_i≠j Cov_ij² + λ_d Σ_i (Cov_ii − 1)² for the covariance that a subclass chooses."""

    logged = ("off_diagonal", "diagonal")
    off_diagonal: float
    diagonal: float

    def covariance(self, inputs: LossInputs) -> Tensor:
        """The (D, D) matrix that the objective pulls towards the identity."""
        raise NotImplementedError

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        matrix = self.covariance(inputs)
        variances = matrix.diagonal()
        off_diagonal = (matrix - variances.diag()).square().sum()
        diagonal = (variances - 1).square().sum()
        total = (
            inputs.reconstruction + inputs.kl + self.off_diagonal * off_diagonal + self.diagonal * diagonal
        )
        return ObjectiveOutput(total, {"off_diagonal": off_diagonal, "diagonal": diagonal})


@dataclass(eq=False, repr=False)
class DIPVAEI(_DIPVAE, DIPVAEIOptions):
    """DIP-VAE-I: reconstruction + KL + λ_od Σ_i≠j Cov_ij² + λ_d Σ_i (Cov_ii − 1)² with Cov = Cov(μ) (Kumar et al. 2018,
    arXiv:1711.00848, equation 6).

    Each accumulated part of a batch counts as a batch of its own; the shares of several processes count as one batch.

    Logs: ``off_diagonal``, Σ_i≠j Cov_ij²; ``diagonal``, Σ_i (Cov_ii − 1)²; both without their weights.
    Raises: ValueError for a number out of its range.

    >>> mu = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])  # Cov = [[1, 2], [2, 4]]
    >>> inputs = LossInputs(torch.tensor(10.0), torch.tensor([1.0, 2.0]), mu, mu, mu, torch.tensor(0))
    >>> DIPVAEI()(inputs).total  # 10 + 3 + 10 × (4 + 4) + 100 × (0 + 9)
    tensor(993.)
    """

    def covariance(self, inputs: LossInputs) -> Tensor:
        return covariance(inputs.mu)


@dataclass(eq=False, repr=False)
class DIPVAEII(_DIPVAE, DIPVAEIIOptions):
    """DIP-VAE-II: like :class:`DIPVAEI`, with Cov = Cov(z) = Cov(μ) + E[diag σ²] (Kumar et al. 2018, equation 7).

    >>> mu = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    >>> inputs = LossInputs(torch.tensor(10.0), torch.ones(2), mu, mu, torch.zeros(2, 2), torch.tensor(0))
    >>> DIPVAEII()(inputs).total  # Cov = [[2, 2], [2, 5]]: 10 + 2 + 10 × (4 + 4) + 10 × (1 + 16)
    tensor(262.)
    """

    def covariance(self, inputs: LossInputs) -> Tensor:
        matrix = covariance(inputs.mu)
        return matrix + mean_over_processes(inputs.logvar.to(matrix.dtype).exp().mean(0)).diag()

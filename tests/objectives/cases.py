"""One instance of each objective, and a batch to try it on."""

from __future__ import annotations

import torch

from betavae_fast.nn import split_kl
from betavae_fast.objectives import FactorVAE, LossInputs, Objective
from betavae_fast.objectives.options import OBJECTIVES, make_options
from betavae_fast.objectives.registry import build

ROWS, DIMS = 12, 3
NAMES = tuple(OBJECTIVES)
NEEDED = {
    "lagrangian": {"kl_limit": 0.7},
    "geco": {"reconstruction_limit": 40.0},
    "beta-per-dim": {"betas": [1.0, 2.5, 0.0]},
}


def objective(name: str, **options: object) -> Objective:
    torch.manual_seed(0)
    if name == "factorvae":
        return FactorVAE(DIMS, width=8)
    return build(make_options(name, NEEDED.get(name, {}) | options), latent_dim=DIMS, dataset_size=100)


def posterior(rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z, μ and log σ² in float64, which require gradients."""
    generator = torch.Generator().manual_seed(1)
    mu, logvar, noise = (torch.randn(rows, DIMS, generator=generator, dtype=torch.float64) for _ in range(3))
    z = mu + (0.5 * logvar).exp() * noise
    return z.requires_grad_(), mu.requires_grad_(), logvar.requires_grad_()


def inputs(z: torch.Tensor, mu: torch.Tensor, logvar: torch.Tensor, step: int = 3) -> LossInputs:
    """The inputs from a model whose reconstruction loss is the mean of 40 + |z|²."""
    reconstruction = 40 + z.square().sum(1).mean()
    return LossInputs(reconstruction, sum(split_kl(mu, logvar)), z, mu, logvar, torch.tensor(step))

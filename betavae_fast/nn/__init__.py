"""Layers: the published encoders and decoders, the latent layer, the loss, and the complete β-VAE."""

from betavae_fast.nn.diagonal_gaussian import DiagonalGaussian
from betavae_fast.nn.initialization import initialize
from betavae_fast.nn.latent import GaussianLatent, KLSplit, LatentOutput, split_kl
from betavae_fast.nn.losses import BetaVAELoss, LossOutput, ReconstructionLoss
from betavae_fast.nn.packings import (
    from_log_sigma,
    from_sigma,
    from_softplus,
    split_halves,
    split_interleaved,
)
from betavae_fast.nn.vae import BetaVAE, BetaVAEOutput

__all__ = [
    "BetaVAE",
    "BetaVAELoss",
    "BetaVAEOutput",
    "DiagonalGaussian",
    "GaussianLatent",
    "KLSplit",
    "LatentOutput",
    "LossOutput",
    "ReconstructionLoss",
    "from_log_sigma",
    "from_sigma",
    "from_softplus",
    "initialize",
    "split_halves",
    "split_interleaved",
    "split_kl",
]

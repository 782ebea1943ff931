"""Layers: the published encoders and decoders, the latent layer, the loss, and the whole β-VAE."""

from betavae_fast.nn.latent import GaussianLatent, KLSplit, LatentOutput, split_kl
from betavae_fast.nn.losses import BetaVAELoss, LossOutput, ReconstructionLoss
from betavae_fast.nn.vae import BetaVAE, BetaVAEOutput

__all__ = [
    "BetaVAE",
    "BetaVAELoss",
    "BetaVAEOutput",
    "GaussianLatent",
    "KLSplit",
    "LatentOutput",
    "LossOutput",
    "ReconstructionLoss",
    "split_kl",
]

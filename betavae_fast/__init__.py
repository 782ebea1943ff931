"""β-VAEs, and every model with a diagonal-Gaussian bottleneck: fused kernels, the same noise everywhere."""

from betavae_fast.functional import (
    KLDecomposition,
    LatentSample,
    PackedBits,
    bernoulli_nll,
    gaussian_kl,
    gaussian_nll,
    kl_decomposition,
    laplace_nll,
    reparameterize,
    reparameterize_kl,
)
from betavae_fast.nn import BetaVAE, BetaVAELoss, DiagonalGaussian, GaussianLatent

__version__ = "0.1.0"

__all__ = [
    "BetaVAE",
    "BetaVAELoss",
    "DiagonalGaussian",
    "GaussianLatent",
    "KLDecomposition",
    "LatentSample",
    "PackedBits",
    "bernoulli_nll",
    "gaussian_kl",
    "gaussian_nll",
    "kl_decomposition",
    "laplace_nll",
    "reparameterize",
    "reparameterize_kl",
]

"""The public functions. They check their arguments, choose a backend and call its operator."""

from betavae_fast.choices import Estimator
from betavae_fast.functional.checks import Reduction
from betavae_fast.functional.decomposition import KLDecomposition, kl_decomposition
from betavae_fast.functional.latent import (
    LatentSample,
    gaussian_kl,
    reparameterize,
    reparameterize_kl,
    reparameterize_kl_packed,
)
from betavae_fast.functional.likelihood import (
    NllReduction,
    PackedBits,
    bernoulli_nll,
    gaussian_nll,
    laplace_nll,
)

__all__ = [
    "Estimator",
    "KLDecomposition",
    "LatentSample",
    "NllReduction",
    "PackedBits",
    "Reduction",
    "bernoulli_nll",
    "gaussian_kl",
    "gaussian_nll",
    "kl_decomposition",
    "laplace_nll",
    "reparameterize",
    "reparameterize_kl",
    "reparameterize_kl_packed",
]

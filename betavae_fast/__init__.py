"""β-VAEs, and every model with a diagonal-Gaussian bottleneck: fused kernels, the same noise everywhere.

The names below are imported when they are first used, and torch with them, so that the command line can set torch's
environment first. ``import betavae_fast.ops`` registers the operators, which programs saved by torch.export need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """Import a subpackage, or all public names at once when the first of them is used (PEP 562)."""
    if name in __all__:
        for module in (import_module("betavae_fast.functional"), import_module("betavae_fast.nn")):
            globals().update(
                {public: getattr(module, public) for public in __all__ if hasattr(module, public)}
            )
        return globals()[name]
    if name in ("data", "functional", "nn", "objectives", "ops"):
        return import_module(f"betavae_fast.{name}")
    raise AttributeError(f"module 'betavae_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

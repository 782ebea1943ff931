"""The β-VAE objective as a loss: reconstruction plus β times KL, both in nats per image."""

from __future__ import annotations

from math import isfinite, log, pi
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from betavae_fast.choices import Likelihood
from betavae_fast.nn.pixels import to_float


class LossOutput(NamedTuple):
    """All in nats, summed over pixels or latent dims, averaged over the batch."""

    total: Tensor  # scalar: reconstruction + beta * kl
    reconstruction: Tensor  # scalar: −log p(x|z)
    kl: Tensor  # scalar
    kl_per_dim: Tensor  # one value per latent dim


class BetaVAELoss(nn.Module):
    """−E[log p(x|z)] + β KL(q(z|x) ‖ N(0, I)) (Higgins et al. 2017, equation 4), with no other scale
    anywhere.

    Args:
        beta: weight of the KL, at least 0; 1 is the evidence lower bound.
        likelihood: what the decoder's output means. "bernoulli": logits, for pixels in [0, 1] (a grey pixel
            counts as its probability of being on). "gaussian", "laplace": the mean of a density of width
            ``scale``, whose normalising constant is part of the loss.
        scale: standard deviation (Gaussian) or diversity (Laplace), in units of the pixel range.

    Raises: ValueError for an unknown likelihood, a negative or infinite beta, a scale that is not positive,
        or a scale for a Bernoulli likelihood, which has none.

    >>> logits, white = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8, dtype=torch.bool)
    >>> out = BetaVAELoss(beta=4.0)(logits, white, kl_per_dim=torch.tensor([0.5, 0.0]))
    >>> out.reconstruction, out.total  # 64 ln 2, and 4 × 0.5 more
    (tensor(44.3614), tensor(46.3614))
    """

    def __init__(
        self, beta: float = 4.0, likelihood: Likelihood = "bernoulli", *, scale: float = 1.0
    ) -> None:
        super().__init__()
        if likelihood not in get_args(Likelihood):
            raise ValueError(
                f"likelihood must be one of {', '.join(get_args(Likelihood))}; got {likelihood!r}"
            )
        if not (isfinite(beta) and beta >= 0):
            raise ValueError(f"beta must be a finite number of at least 0, got {beta}")
        if not (isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be a finite positive number, got {scale}")
        if likelihood == "bernoulli" and scale != 1.0:
            raise ValueError(f"a Bernoulli likelihood has no scale, got scale={scale}")
        self.beta = beta
        self.likelihood: Likelihood = likelihood
        self.scale = scale

    def forward(self, decoded: Tensor, target: Tensor, kl_per_dim: Tensor) -> LossOutput:
        """The loss of one batch.

        Args:
            decoded: the decoder's output (B, C, H, W), floating point.
            target: the images, same shape; bool, uint8 (0…255, divided by 255) or floating point.
            kl_per_dim: batch-mean KL of each latent dim, as the latent layer returns it by default.
        Returns: float32 (float64 for float64 input).
        Raises: ValueError if the shapes differ, TypeError for a target of another dtype.
        """
        if decoded.shape != target.shape:
            raise ValueError(
                f"BetaVAELoss: the decoder's output and the target must have the same shape, "
                f"got {tuple(decoded.shape)} and {tuple(target.shape)}"
            )
        reconstruction = _batch_mean_nll(decoded, target, self.likelihood, self.scale)
        kl = kl_per_dim.sum()
        return LossOutput(reconstruction + self.beta * kl, reconstruction, kl, kl_per_dim)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, likelihood={self.likelihood!r}, scale={self.scale}"


def _batch_mean_nll(decoded: Tensor, target: Tensor, likelihood: Likelihood, scale: float) -> Tensor:
    """−log p(target | decoded) in nats, summed over pixels, averaged over the batch; float32 or wider."""
    decoded = decoded.to(torch.promote_types(decoded.dtype, torch.float32))
    target = to_float(target, decoded.dtype)
    if likelihood == "bernoulli":
        total = binary_cross_entropy_with_logits(decoded, target, reduction="sum")
    elif likelihood == "gaussian":
        total = 0.5 * ((decoded - target) / scale).square().sum() + decoded.numel() * (
            log(scale) + 0.5 * log(2 * pi)
        )
    else:
        total = (decoded - target).abs().sum() / scale + decoded.numel() * log(2 * scale)
    return total / decoded.shape[0]

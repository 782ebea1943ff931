"""The bottleneck: a diagonal Gaussian posterior per image. Training samples it, evaluation takes its mean."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from betavae_fast.functional import Reduction, gaussian_kl, reparameterize_kl
from betavae_fast.nn.packings import split_halves
from betavae_fast.ops.backends import Backend


class LatentOutput(NamedTuple):
    """The output of the latent layer: the sample, the KL, and the parameters of the posterior."""

    z: Tensor  # like mu
    kl: Tensor  # nats; with the default reduction one value per latent dim, a mean over the batch
    mu: Tensor
    logvar: Tensor


class KLSplit(NamedTuple):
    """The two parts of a channel's KL, in nats per image. Both are 0 for an unused channel."""

    mean_dispersion: Tensor
    variance: Tensor


class GaussianLatent(nn.Module):
    """Diagonal-Gaussian bottleneck: z = μ + exp(½ log σ²) ε in training, z = μ in evaluation; KL to N(0, I)
    in both (Kingma & Welling 2014, equation 10 and appendix B).

    Args:
        reduction: reduction of the KL, as in :func:`betavae_fast.gaussian_kl`. "dim" (default): batch mean per latent
            dim, shape ``mu.shape[1:]``.
        logvar_range: range (lo, hi) to which log σ² is clamped; clamped elements get no gradient.
        backend: the backend of the computation; "auto" chooses by the tensor's device.

    Called with ``moments`` of shape (B, 2·D, ...), mean first, or with ``mu, logvar`` of shape (B, D, ...)
    each.

    >>> latent = GaussianLatent().eval()
    >>> z, kl, mu, logvar = latent(torch.zeros(8, 6))
    >>> z.shape, kl
    (torch.Size([8, 3]), tensor([0., 0., 0.]))
    """

    def __init__(
        self,
        *,
        reduction: Reduction = "dim",
        logvar_range: tuple[float, float] | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.reduction: Reduction = reduction
        self.logvar_range = logvar_range
        self.backend: Backend = backend

    def forward(
        self,
        mu: Tensor,
        logvar: Tensor | None = None,
        *,
        seed: int | Tensor | None = None,
        generator: Generator | None = None,
        noise: Tensor | None = None,
        first_row: int = 0,
    ) -> LatentOutput:
        """Sample (or take the mean, in evaluation) and compute the KL.

        Args:
            mu: the posterior mean, or, without ``logvar``, the packed moments.
            logvar: the posterior log-variance.
            seed, generator, noise, first_row: the source of the noise in training, as in
                :func:`betavae_fast.reparameterize_kl`; evaluation draws no noise.
        Raises: ValueError if packed moments do not split into two halves; the errors of ``reparameterize_kl``.
        """
        if logvar is None:
            mu, logvar = split_halves(mu)
        if self.training:
            z, kl = reparameterize_kl(
                mu,
                logvar,
                reduction=self.reduction,
                seed=seed,
                generator=generator,
                noise=noise,
                first_row=first_row,
                logvar_range=self.logvar_range,
                backend=self.backend,
            )
        else:
            z = mu
            kl = gaussian_kl(
                mu, logvar, reduction=self.reduction, logvar_range=self.logvar_range, backend=self.backend
            )
        return LatentOutput(z, kl, mu, logvar)

    def clamped(self, logvar: Tensor) -> Tensor:
        """Log-variances within ``logvar_range``, as training and the KL use them; they themselves if there is none."""
        return logvar if self.logvar_range is None else logvar.clamp(*self.logvar_range)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}, logvar_range={self.logvar_range}, backend={self.backend!r}"


def split_kl(mu: Tensor, logvar: Tensor) -> KLSplit:
    """Each channel's KL to N(0, 1) as mean dispersion ½ μ² plus variance ½ (expm1(log σ²) − log σ²).

    Args:
        mu, logvar: posterior mean and log-variance, same shape (B, ...), any floating-point dtype.
    Returns: two tensors of shape ``mu.shape[1:]``, means over the batch in nats, float32 (float64 for float64
        input); their sum is ``gaussian_kl(mu, logvar)`` up to rounding.

    >>> split_kl(torch.tensor([[2.0], [-2.0]]), torch.zeros(2, 1))
    KLSplit(mean_dispersion=tensor([2.]), variance=tensor([0.]))
    """
    if mu.shape != logvar.shape:
        raise ValueError(
            f"split_kl: mu and logvar must have the same shape, "
            f"got {tuple(mu.shape)} and {tuple(logvar.shape)}"
        )
    dtype = torch.promote_types(mu.dtype, torch.float32)
    mu, logvar = mu.to(dtype), logvar.to(dtype)
    # The formula of ops/reference/latent.py in two parts, without its bounds.
    return KLSplit(0.5 * mu.square().mean(0), 0.5 * (logvar.expm1() - logvar).mean(0))

"""The posterior object of latent-diffusion code: same interface, fused underneath."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from betavae_fast.nn.packings import split_halves
from betavae_fast.nn.posterior import Generators, Posterior, kl_between
from betavae_fast.ops.schemas import kl_dtype

LOGVAR_RANGE = (-30.0, 20.0)


class DiagonalGaussian:
    """N(μ, σ²) per element of a latent, with the interface of diffusers' ``DiagonalGaussianDistribution``.

    log σ² is clamped to [−30, 20], and has no gradient where it was clamped. :meth:`sample` then :meth:`kl` take one pass
    over memory. Channels-last parameters give a channels-last z, without a copy. KL and NLL are in nats, summed over all
    dimensions but the batch.

    Unlike there: (B, 2·D) and (B, 2·C, T, H, W) reduce to (B,), too; KL and NLL are float32 (float64 for float64), do not
    cancel, and are zeros of shape (B,) on the device of the parameters where deterministic; noise is that of
    :mod:`betavae_fast.noise`: not the bits that torch draws from that generator, but the same on every device. The
    gradient of a sample, and of the KL that came with it, goes to ``parameters`` at once, not through ``mean`` and its
    hooks.

    Args:
        parameters: (B, 2·C, ...): the mean, then log σ²; float16, bfloat16, float32 or float64, any strides.
        deterministic: σ = 0: samples are the mean, the KL and the NLL count as 0.

    Attributes: ``parameters``; ``mean``, a view of it; ``deterministic``. Computed when asked for, in the dtype of the
        parameters: ``logvar`` (clamped), ``std``, ``var``.

    Raises: TypeError for what is no floating-point tensor, ValueError where dimension 1 is missing or odd.

    Source: Rombach et al. 2022, arXiv:2112.10752; the KL as :func:`betavae_fast.gaussian_kl`.

    >>> posterior = DiagonalGaussian(torch.zeros(2, 8, 4, 4))
    >>> posterior.sample(torch.Generator().manual_seed(0)).shape, posterior.kl()
    (torch.Size([2, 4, 4, 4]), tensor([0., 0.]))

    Nats per channel, means over the batch:

    >>> from betavae_fast import gaussian_kl
    >>> gaussian_kl(posterior.mean + 1, posterior.logvar).flatten(1).sum(1)
    tensor([8., 8., 8., 8.])
    """

    def __init__(self, parameters: Tensor, deterministic: bool = False) -> None:
        mean, logvar = split_halves(parameters)
        self.parameters = parameters
        self.mean = mean
        self.deterministic = deterministic
        self._posterior = Posterior(mean, logvar, LOGVAR_RANGE, parameters)

    def __reduce__(self) -> tuple[type[DiagonalGaussian], tuple[Tensor, bool]]:
        # Pickled apart, the mean would no longer be a view of the parameters.
        return type(self), (self.parameters, self.deterministic)

    @property
    def logvar(self) -> Tensor:
        return self._posterior.logvar.clamp(*LOGVAR_RANGE)

    @property
    def std(self) -> Tensor:
        return torch.zeros_like(self.mean) if self.deterministic else (0.5 * self.logvar).exp()

    @property
    def var(self) -> Tensor:
        return torch.zeros_like(self.mean) if self.deterministic else self.logvar.exp()

    def sample(self, generator: Generators = None, *, noise: Tensor | None = None) -> Tensor:
        """z = μ + σ ε, like the mean in shape, dtype and memory format, differentiable.

        Args:
            generator: torch's own by default; or one a sample, each of which draws what it would for that sample alone.
                They may be on another device.
            noise: ε itself, like the mean.
        Raises: TypeError for another generator, ValueError for the wrong number of them or with ``noise``.
        """
        if self.deterministic:
            return self.mean.clone()
        return self._posterior.sample(generator, noise)

    def mode(self) -> Tensor:
        return self.mean

    def kl(self, other: DiagonalGaussian | None = None) -> Tensor:
        """KL(self ‖ ``other``), of N(0, I) by default: nats, (B,), never negative.

        Raises: TypeError for another kind of ``other``, ValueError for one of another shape, or a deterministic one, to
            which no KL is finite.
        """
        if other is not None:
            self._check_other(other)
        if self.deterministic:
            return self.mean.new_zeros(len(self.mean), dtype=kl_dtype(self.mean.dtype))
        if other is None:
            return self._posterior.kl()
        return kl_between(self.mean, self.logvar, other.mean, other.logvar)

    def nll(self, sample: Tensor, dims: Sequence[int] | None = None) -> Tensor:
        """−log of the density at ``sample``, nats, summed over ``dims`` (all but the batch)."""
        dtype = kl_dtype(self.mean.dtype)
        mean, logvar = self.mean.to(dtype), self.logvar.to(dtype)
        terms = math.log(2 * math.pi) + logvar + (sample - mean).square() * (-logvar).exp()
        if self.deterministic:
            terms = torch.zeros_like(terms)
        return 0.5 * terms.sum(tuple(range(1, mean.dim()) if dims is None else dims))

    def _check_other(self, other: DiagonalGaussian) -> None:
        if not isinstance(other, DiagonalGaussian):
            raise TypeError(f"kl: other must be a DiagonalGaussian, got {other!r:.60}")
        if other.mean.shape != self.mean.shape:
            raise ValueError(
                f"kl: other must have the same shape, {tuple(self.mean.shape)}, got {tuple(other.mean.shape)}"
            )
        if other.deterministic:
            raise ValueError("kl: other must not be deterministic, got other.deterministic=True")

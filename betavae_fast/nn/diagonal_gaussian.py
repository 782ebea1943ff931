"""The posterior class of latent-diffusion code: the same interface on fused kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from betavae_fast.nn.packings import split_halves
from betavae_fast.nn.posterior import Generators, Posterior, kl_between
from betavae_fast.ops.reductions import kl_dtype

LOGVAR_RANGE = (-30.0, 20.0)


class DiagonalGaussian:
    """N(μ, σ²) per element of a latent, with the interface of diffusers' ``DiagonalGaussianDistribution``.

    log σ² is clamped to [−30, 20]; clamped elements get no gradient. :meth:`sample` followed by :meth:`kl` takes one pass
    over memory. Channels-last parameters give a channels-last z, without a copy. KL and NLL are in nats, summed over all
    dimensions but the batch.

    Differences from diffusers: (B, 2·D) and (B, 2·C, T, H, W) reduce to (B,), too. KL and NLL are float32 (float64 for
    float64 parameters) and computed without cancellation; for ``deterministic`` they are zeros of shape (B,) on the
    parameters' device. The noise follows :mod:`betavae_fast.noise`: its bits are not those that torch draws from the same
    generator, but they are the same on every device. The gradient of a sample, and of the KL computed with it, goes
    directly to ``parameters``, not through ``mean`` and its hooks.

    Args:
        parameters: (B, 2·C, ...): the mean, then log σ²; float16, bfloat16, float32 or float64, any strides.
        deterministic: if True, σ = 0: samples equal the mean, and KL and NLL are 0.

    Attributes: ``parameters``; ``mean``, a view of it; ``deterministic``. Computed on access, in the dtype of the
        parameters: ``logvar`` (clamped), ``std``, ``var``.

    Raises: TypeError if ``parameters`` is not a floating-point tensor; ValueError if dimension 1 is missing or odd.

    Source: Rombach et al. 2022, arXiv:2112.10752. The KL is that of :func:`betavae_fast.gaussian_kl`.

    >>> posterior = DiagonalGaussian(torch.zeros(2, 8, 4, 4))
    >>> posterior.sample(torch.Generator().manual_seed(0)).shape, posterior.kl()
    (torch.Size([2, 4, 4, 4]), tensor([0., 0.]))

    The KL of each channel, averaged over the batch:

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
        # If the mean were pickled on its own, it would no longer be a view of the parameters.
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
            generator: a generator (torch's own by default), or one for each sample, which then draws what it would draw
                for that sample alone. Generators may be on another device.
            noise: ε itself, with the shape, dtype and device of the mean.
        Raises: TypeError if ``generator`` is anything else; ValueError for the wrong number of generators, or if
            ``noise`` is given as well.
        """
        if self.deterministic:
            return self.mean.clone()
        return self._posterior.sample(generator, noise)

    def mode(self) -> Tensor:
        return self.mean

    def kl(self, other: DiagonalGaussian | None = None) -> Tensor:
        """KL(self ‖ ``other``) in nats, shape (B,), never negative. By default, ``other`` is N(0, I).

        Raises: TypeError if ``other`` is not a DiagonalGaussian; ValueError if its shape differs, or if it is
            deterministic, because no KL to it is finite.
        """
        if other is not None:
            self._check_other(other)
        if self.deterministic:
            return self.mean.new_zeros(len(self.mean), dtype=kl_dtype(self.mean.dtype))
        if other is None:
            return self._posterior.kl()
        return kl_between(self.mean, self.logvar, other.mean, other.logvar)

    def nll(self, sample: Tensor, dims: Sequence[int] | None = None) -> Tensor:
        """−log of the density at ``sample`` in nats, summed over ``dims`` (by default all but the batch)."""
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

"""torch.distributions with the fused op: ``rsample`` and ``kl_divergence`` of a diagonal normal.

>>> from torch.distributions import kl_divergence
>>> posterior = DiagonalNormal(torch.zeros(8, 3), torch.zeros(8, 3))
>>> z = posterior.rsample()
>>> kl_divergence(posterior, StandardNormal((3,))).sum()  # computed in the same pass as z
tensor(0.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, register_kl

from betavae_fast.functional import reparameterize
from betavae_fast.functional.checks import FLOATING, check_tensor
from betavae_fast.nn.packings import from_sigma
from betavae_fast.nn.posterior import Posterior, kl_between

_NO_SHAPE = torch.Size()


class DiagonalNormal(Independent):  # type: ignore[type-arg]
    """``Independent(Normal(mu, exp(½ logvar)), mu.dim() - 1)``: the first dimension is the batch, the others one event.

    ``rsample()`` followed by ``kl_divergence`` to a :class:`StandardNormal` takes one pass over memory. This KL, and the
    KL to another DiagonalNormal, is float32 (float64 for float64) and is computed without cancellation. Everything else
    is inherited from Independent, including the KL to any other distribution.

    Args:
        mu, logvar: (B, ...), one shape, float16, bfloat16, float32 or float64.
    Raises: TypeError, ValueError for tensors that do not fit.

    >>> DiagonalNormal.of(Independent(Normal(torch.zeros(4, 2), torch.ones(4, 2)), 1)).logvar[0]
    tensor([0., 0.])
    """

    has_rsample = True

    def __init__(self, mu: Tensor, logvar: Tensor, validate_args: bool | None = None) -> None:
        for name, x in (("mu", mu), ("logvar", logvar)):
            check_tensor("DiagonalNormal", name, x, FLOATING)
        if mu.shape != logvar.shape or mu.dim() == 0:
            raise ValueError(
                f"DiagonalNormal: mu and logvar must have one shape (B, ...), "
                f"got {tuple(mu.shape)} and {tuple(logvar.shape)}"
            )
        self.mu, self.logvar = mu, logvar
        self.reinterpreted_batch_ndims = mu.dim() - 1
        self._posterior = Posterior(mu, logvar)
        torch.distributions.Distribution.__init__(self, mu.shape[:1], mu.shape[1:], validate_args)

    @classmethod
    def of(cls, distribution: Independent[Normal]) -> DiagonalNormal:
        """Make a DiagonalNormal equal to ``distribution``, an Independent of a Normal with one batch dimension.

        Raises: TypeError for another distribution, ValueError for other batch dimensions.
        """
        if not (isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal)):
            raise TypeError(f"distribution must be an Independent of a Normal, got {distribution!r:.60}")
        if len(distribution.batch_shape) != 1:
            raise ValueError(
                f"distribution must have one batch dimension, got {tuple(distribution.batch_shape)}"
            )
        return cls(*from_sigma(distribution.base_dist.loc, distribution.base_dist.scale))

    @property
    def base_dist(self) -> Normal:
        return Normal(self.mu, (0.5 * self.logvar).exp(), validate_args=self._validate_args)

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        if not sample_shape:
            return self._posterior.sample()
        shape = torch.Size(sample_shape) + self.mu.shape
        return reparameterize(self.mu.expand(shape), self.logvar.expand(shape))

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Independent[Normal]:
        return Independent(self.base_dist, self.reinterpreted_batch_ndims).expand(batch_shape, _instance)


class StandardNormal(Independent):  # type: ignore[type-arg]
    """N(0, I) of one event, without a batch dimension: the prior for the fast KL of :class:`DiagonalNormal`.

    >>> StandardNormal((3, 8, 8)).sample((2,)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        event_shape: Any,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        zeros = torch.zeros(torch.Size(event_shape), dtype=dtype, device=device)
        super().__init__(
            Normal(zeros, torch.ones_like(zeros), validate_args=False), zeros.dim(), validate_args
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> Independent[Normal]:
        return Independent(self.base_dist, self.reinterpreted_batch_ndims).expand(batch_shape, _instance)


def _check_event(p: Independent[Normal], q: Independent[Normal]) -> None:
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"kl_divergence: event shapes must be equal, got {tuple(p.event_shape)} and {tuple(q.event_shape)}"
        )


@register_kl(DiagonalNormal, StandardNormal)  # type: ignore[untyped-decorator]
def _kl_standard(p: DiagonalNormal, q: StandardNormal) -> Tensor:
    _check_event(p, q)
    return p._posterior.kl()


@register_kl(DiagonalNormal, DiagonalNormal)  # type: ignore[untyped-decorator]
def _kl_diagonal(p: DiagonalNormal, q: DiagonalNormal) -> Tensor:
    _check_event(p, q)
    return kl_between(p.mu, p.logvar, q.mu, q.logvar)

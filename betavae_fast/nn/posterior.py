"""The fused pass for classes whose callers ask for the sample and for the KL in separate calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from betavae_fast.functional import LatentSample, gaussian_kl, reparameterize_kl, reparameterize_kl_packed
from betavae_fast.noise import make_rng
from betavae_fast.ops.gradients import transformed
from betavae_fast.ops.reductions import kl_dtype

Generators = Generator | Sequence[Generator] | None


def kl_between(mu: Tensor, logvar: Tensor, other_mu: Tensor, other_logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(μ', σ'²)) in nats, shape (B,). Relative to μ' and in units of σ', it is the KL to N(0, I)."""
    dtype = kl_dtype(mu.dtype)
    mu, logvar, other_mu, other_logvar = (x.to(dtype) for x in (mu, logvar, other_mu, other_logvar))
    return gaussian_kl(
        (mu - other_mu) * (-0.5 * other_logvar).exp(), logvar - other_logvar, reduction="sample"
    )


class Posterior:
    """N(μ, σ²) of a batch, whose KL is computed in the pass that samples it.

    A sample caches its KL, B numbers, for the next :meth:`kl`, which empties the cache. The cached KL is dropped after a
    backward pass, which frees its graph, and ignored whenever a new KL would differ: after μ or log σ² was written to, or
    if gradients are enabled now and were not then, or the reverse. In inference mode, under torch.compile and under the
    transforms of torch.func nothing is cached, because such changes cannot be detected there.

    Args:
        mu, logvar, logvar_range: as in :func:`betavae_fast.reparameterize_kl`.
        packed: the tensor whose halves along dimension 1 are mu and logvar, to write a sample's gradient to it directly.
    """

    def __init__(
        self,
        mu: Tensor,
        logvar: Tensor,
        logvar_range: tuple[float, float] | None = None,
        packed: Tensor | None = None,
    ) -> None:
        self.mu, self.logvar, self.logvar_range = mu, logvar, logvar_range
        self._inputs = (mu, logvar) if packed is None else (packed,)
        self._kept: tuple[Tensor, tuple[int, int]] | None = None

    def sample(self, generator: Generators = None, noise: Tensor | None = None) -> Tensor:
        """A sample z, like μ. A generator may be on another device, because the noise is the same on all devices.

        A list of generators has one for each row, which draws what it would draw for that row alone.
        """
        if isinstance(generator, Sequence) and len(generator) == 1:
            (generator,) = generator
        if isinstance(generator, Sequence):
            z, kl = self._sample_rows(generator, noise)
        else:
            z, kl = self._pass(self._inputs, generator, noise)
        self._keep(z, kl)
        return z

    def kl(self) -> Tensor:
        """The KL to N(0, I) in nats, shape (B,)."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kl, versions = kept
            graph = torch.is_grad_enabled() and (self.mu.requires_grad or self.logvar.requires_grad)
            if kl.requires_grad == graph and versions == self._versions():
                return kl
        return gaussian_kl(self.mu, self.logvar, reduction="sample", logvar_range=self.logvar_range)

    def _pass(
        self, inputs: tuple[Tensor, ...], generator: Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        seed = None
        if generator is not None:
            if not isinstance(generator, Generator):
                raise TypeError(
                    f"generator must be a torch.Generator or a list of them, got {generator!r:.60}"
                )
            seed = make_rng(generator.device, generator=generator).to(self.mu.device)
        fused: Callable[..., LatentSample] = (
            reparameterize_kl_packed if len(inputs) == 1 else reparameterize_kl
        )
        return fused(*inputs, reduction="sample", seed=seed, noise=noise, logvar_range=self.logvar_range)

    def _sample_rows(self, generators: Sequence[Generator], noise: Tensor | None) -> tuple[Tensor, Tensor]:
        rows = len(self.mu)
        if len(generators) != rows:
            raise ValueError(f"a list of generators must have one per sample, {rows}, got {len(generators)}")
        if rows == 0:
            return self._pass(self._inputs, None, noise)
        parts = zip(*(x.split(1) for x in self._inputs), strict=True)
        passes = (self._pass(row, g, noise) for row, g in zip(parts, generators, strict=True))
        z, kl = zip(*passes, strict=True)
        return torch.cat(z), torch.cat(kl)

    def _keep(self, z: Tensor, kl: Tensor) -> None:
        self._kept = None
        # Changes could not be detected.
        if torch.compiler.is_compiling() or transformed() or kl.is_inference():
            return
        self._kept = kl, self._versions()
        if z.grad_fn is not None:
            this = weakref.ref(self)  # A strong one would be a cycle: the cached KL holds the graph.

            def forget(_: object) -> None:
                if (posterior := this()) is not None:
                    posterior._kept = None

            z.grad_fn.register_prehook(forget)

    def __getstate__(self) -> dict[str, object]:
        # The version counters of a copy start anew and cannot tell whether the cached KL is still valid.
        return vars(self) | {"_kept": None}

    def _versions(self) -> tuple[int, int]:
        return self.mu._version, self.logvar._version

"""The fused pass behind the classes that ask for the sample and for the KL one after the other."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from betavae_fast.functional import LatentSample, gaussian_kl, reparameterize_kl, reparameterize_kl_packed
from betavae_fast.noise import make_rng
from betavae_fast.ops.schemas import kl_dtype

Generators = Generator | Sequence[Generator] | None


def kl_between(mu: Tensor, logvar: Tensor, other_mu: Tensor, other_logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(μ', σ'²)), nats, (B,): measured in units of σ' from μ', it is the KL to N(0, I)."""
    dtype = kl_dtype(mu.dtype)
    mu, logvar, other_mu, other_logvar = (x.to(dtype) for x in (mu, logvar, other_mu, other_logvar))
    return gaussian_kl(
        (mu - other_mu) * (-0.5 * other_logvar).exp(), logvar - other_logvar, reduction="sample"
    )


class Posterior:
    """N(μ, σ²) of a batch, whose KL comes out of the pass that sampled it.

    A sample keeps its KL, B numbers, for the next :meth:`kl`, which takes it away. It is not kept across a backward
    pass, which frees its graph, and not used where it would be another than a new one: after μ or log σ² was written to,
    or with gradients asked for now and not then; nor in inference mode or torch.compile, where that cannot be told.

    Args:
        mu, logvar, logvar_range: as :func:`betavae_fast.reparameterize_kl` takes them.
        packed: what mu and logvar are the halves of along dimension 1, if it is to have a sample's gradient at once.
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
        """z like μ. A generator may be on another device: noise is the same on all. Of several, one a row, each draws
        what it would for its row alone."""
        if isinstance(generator, Sequence) and len(generator) == 1:
            (generator,) = generator
        if isinstance(generator, Sequence):
            z, kl = self._sample_rows(generator, noise)
        else:
            z, kl = self._pass(self._inputs, generator, noise)
        self._keep(z, kl)
        return z

    def kl(self) -> Tensor:
        """To N(0, I), nats, (B,)."""
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
            raise ValueError(f"a list of generators must have one a sample, {rows}, got {len(generators)}")
        if rows == 0:
            return self._pass(self._inputs, None, noise)
        parts = zip(*(x.split(1) for x in self._inputs), strict=True)
        passes = (self._pass(row, g, noise) for row, g in zip(parts, generators, strict=True))
        z, kl = zip(*passes, strict=True)
        return torch.cat(z), torch.cat(kl)

    def _keep(self, z: Tensor, kl: Tensor) -> None:
        self._kept = None
        if torch.compiler.is_compiling() or kl.is_inference():  # Nothing would tell that it is out of date.
            return
        self._kept = kl, self._versions()
        if z.grad_fn is not None:
            this = weakref.ref(self)  # The graph must not keep alive what keeps the graph alive.

            def forget(_: object) -> None:
                if (posterior := this()) is not None:
                    posterior._kept = None

            z.grad_fn.register_prehook(forget)

    def __getstate__(self) -> dict[str, object]:
        # A copy's versions count anew: they would not tell whether the KL is still that of its tensors.
        return vars(self) | {"_kept": None}

    def _versions(self) -> tuple[int, int]:
        return self.mu._version, self.logvar._version

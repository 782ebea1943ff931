"""Digests of all results of the latent op, over layouts, shapes, dtypes, thread counts and shards.

    python -m tests.ops.latent_bits BACKEND

prints the digests as JSON, so that a test can compare processes with different instruction sets.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from betavae_fast import gaussian_kl, reparameterize, reparameterize_kl
from tests.layouts import LAYOUTS, dense, fits, lay_out

AWKWARD = (1, 2, 3, 5, 10, 37, 128, 511, 512, 513, 1000, 2049)
FEATURES: tuple[tuple[int, ...], ...] = (
    (),
    *((d,) for d in AWKWARD),
    (4, 8, 8),
    (3, 5, 7),
    (1, 16, 16),
    (5, 3),
    (5, 16, 32),  # Each channel has a whole number of tiles of pixels.
    (17, 16, 32),
)
REDUCTIONS = ("dim", "sample", "batchmean", "sum", "none")
SEED = 20261122


class Case(NamedTuple):
    """A pair (μ, log σ²) of about ``elements`` elements each."""

    layout: str
    features: tuple[int, ...]
    dtype: torch.dtype
    elements: int

    def __str__(self) -> str:
        return f"{self.layout} (B, {', '.join(map(str, self.features))}) {str(self.dtype)[6:]}"

    @property
    def shape(self) -> tuple[int, ...]:
        return -(-self.elements // math.prod(self.features)), *self.features

    @property
    def first_row(self) -> int:
        """An odd first row; each shape has its own part of the sequence."""
        return self.elements * FEATURES.index(self.features) // math.prod(self.features) | 1

    def values(self) -> tuple[Tensor, Tensor]:
        """μ and log σ² in the layout. |log σ²| ranges from 1e-3 to 20, because formulas differ near 0."""
        # Only draws and products are used, because torch's pow and exp change bits with the number of threads.
        draw = torch.Generator().manual_seed(0)
        mu = torch.randn(self.shape, generator=draw)
        scale = torch.tensor([1e-3, 0.1, 1.0, 5.0])[torch.randint(4, self.shape, generator=draw)]
        logvar = torch.randn(self.shape, generator=draw) * scale
        mu, logvar = lay_out(self.layout, mu.to(self.dtype), logvar.to(self.dtype))
        return mu, logvar


def cases(elements: int, *dtypes: torch.dtype) -> Iterator[Case]:
    for layout in LAYOUTS:
        for features in FEATURES:
            if fits(layout, 1 + len(features)):
                for dtype in dtypes:
                    yield Case(layout, features, dtype, elements)


def noise_cases() -> Iterator[Case]:
    """Cases with 2^20 elements and more in the contiguous layout, a quarter of that in each other layout, and fewer in
    other dtypes.
    """
    for case in cases(1 << 14, torch.float32):
        yield case._replace(elements=1 << 16) if case.layout == "contiguous" else case
    yield from cases(1 << 10, torch.bfloat16, torch.float16, torch.float64)


def digest(x: Tensor) -> str:
    return hashlib.sha256(dense(x.detach()).view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def noise_bits(case: Case, backend: str) -> str:
    """The digest of z for μ = 0 and log σ² = 0: the noise itself, rounded to the dtype."""
    zero = torch.zeros(case.shape, dtype=case.dtype)
    mu, logvar = lay_out(case.layout, zero, zero)
    return digest(reparameterize_kl(mu, logvar, seed=SEED, first_row=case.first_row, backend=backend).z)


def gradients(outputs: tuple[Tensor, ...], mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
    incoming = [torch.full_like(x, scale) for x, scale in zip(outputs, (0.7, 1.3), strict=True)]
    return torch.autograd.grad(outputs, [mu, logvar], incoming)


def result_bits(case: Case, backend: str, *, as_dense: bool = False, shards: int = 1) -> dict[str, str]:
    """The digests of every result for arbitrary μ and log σ²; as_dense copies these to contiguous tensors first."""
    mu, logvar = case.values()
    if as_dense:
        mu, logvar = dense(mu), dense(logvar)
    noise = {"seed": SEED, "backend": backend}
    if shards > 1:
        parts = []
        for rows in torch.arange(case.shape[0]).tensor_split(shards):
            if len(rows):
                m, v = (x[rows[0] : rows[-1] + 1].detach().requires_grad_() for x in (mu, logvar))
                first_row = case.first_row + int(rows[0])
                outputs = reparameterize_kl(m, v, reduction="sample", first_row=first_row, **noise)
                parts.append((*outputs, *gradients(outputs, m, v)))
        kinds = ("z", "kl sample", "grad_mu sample", "grad_logvar sample")
        return {
            kind: digest(torch.cat(part)) for kind, part in zip(kinds, zip(*parts, strict=True), strict=True)
        }
    bits = {}
    for reduction in REDUCTIONS:
        m, v = mu.detach().requires_grad_(), logvar.detach().requires_grad_()
        z, kl = reparameterize_kl(m, v, reduction=reduction, first_row=case.first_row, **noise)
        bits["z" if reduction == "dim" else f"z {reduction}"] = digest(z)
        bits[f"kl {reduction}"] = digest(kl)
        if reduction in ("dim", "sample"):
            grads = gradients((z, kl), m, v)
            bits[f"grad_mu {reduction}"], bits[f"grad_logvar {reduction}"] = map(digest, grads)
        bits[f"gaussian_kl {reduction}"] = digest(
            gaussian_kl(mu, logvar, reduction=reduction, backend=backend)
        )
    bits["reparameterize"] = digest(reparameterize(mu, logvar, first_row=case.first_row, **noise))
    return bits


def report(backend: str) -> dict[str, dict[str, str]]:
    """All digests of one process, by name."""
    half, single, double = (torch.bfloat16, torch.float16), torch.float32, torch.float64
    found: dict[str, dict[str, str]] = {"noise": {}, "results": {}}
    for case in noise_cases():
        found["noise"][str(case)] = noise_bits(case, backend)
    for case in (*cases(1 << 13, single), *cases(1 << 11, *half, double)):
        for kind, bits in result_bits(case, backend).items():
            found["results"][f"{case}: {kind}"] = bits
    return found


if __name__ == "__main__":
    json.dump(report(sys.argv[1]), sys.stdout)

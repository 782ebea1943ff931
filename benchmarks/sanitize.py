"""A short run of our CUDA kernels on awkward shapes and layouts, for compute-sanitizer to watch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from betavae_fast.functional import PackedBits, bernoulli_nll, kl_decomposition, reparameterize_kl
from betavae_fast.ops.backends import missing

SHAPES = ((1, 1), (3, 5), (64, 10), (257, 33), (1030, 128))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def posteriors() -> Iterator[tuple[Tensor, Tensor]]:
    """Contiguous, and the two halves of one tensor."""
    for batch, dim in SHAPES:
        for dtype in DTYPES:
            moments = torch.randn(batch, 2 * dim, device="cuda", dtype=dtype)
            packed = moments.chunk(2, 1)
            yield tuple(x.contiguous() for x in packed)  # type: ignore[misc]
            yield packed  # type: ignore[misc]


def likelihoods(decoded: Tensor) -> None:
    """Every kind of target, with the gradient written early and afterwards."""
    on = torch.rand_like(decoded, dtype=torch.float32) < 0.5
    for target in (on, on.float(), on.to(torch.uint8), PackedBits.pack(on)):
        for reduction in ("sum", "sample"):
            leaf = decoded.detach().requires_grad_()
            nll = bernoulli_nll(leaf, target, reduction=reduction, backend="cuda")
            torch.autograd.grad(nll, leaf, torch.full_like(nll, 0.5))


def decomposition(mu: Tensor, logvar: Tensor) -> None:
    for estimator in ("mws", "mss"):
        if len(mu) > 1:
            leaves = [x.detach().requires_grad_() for x in (mu, mu, logvar)]
            parts = kl_decomposition(*leaves, dataset_size=10**5, estimator=estimator, backend="cuda")
            torch.autograd.grad(torch.stack(parts), leaves, torch.ones(3, device="cuda"))


def main() -> None:
    if why := missing("cuda"):
        raise SystemExit(f"Nothing to watch: {why}")
    for mu, logvar in posteriors():
        for reduction in ("dim", "sample", "batchmean"):
            leaves = mu.detach().requires_grad_(), logvar.detach().requires_grad_()
            z, kl = reparameterize_kl(*leaves, reduction=reduction, seed=1, backend="cuda")
            torch.autograd.grad((z, kl), leaves, (torch.randn_like(z), torch.ones_like(kl)))
        likelihoods(mu)
        decomposition(mu, logvar)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()

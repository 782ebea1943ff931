"""Runs our kernels briefly on awkward shapes and layouts, under compute-sanitizer.

On a CPU it runs the C++ kernels, to rehearse the command.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.arguments import add_device, parser_of
from betavae_fast.functional import PackedBits, bernoulli_nll, kl_decomposition, reparameterize_kl
from betavae_fast.ops.backends import Backend, missing

SHAPES = ((1, 1), (3, 5), (64, 10), (257, 33), (1030, 128))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BACKENDS: dict[str, Backend] = {"cpu": "cpp", "cuda": "cuda"}


def posteriors(device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Posterior parameters in two layouts: contiguous, and as the two halves of one tensor."""
    for batch, dim in SHAPES:
        for dtype in DTYPES:
            moments = torch.randn(batch, 2 * dim, device=device, dtype=dtype)
            packed = moments.chunk(2, 1)
            yield tuple(x.contiguous() for x in packed)  # type: ignore[misc]
            yield packed  # type: ignore[misc]


def likelihoods(decoded: Tensor) -> None:
    """Run every kind of target, with the gradient computed in the forward pass and in the backward pass."""
    on = torch.rand_like(decoded, dtype=torch.float32) < 0.5
    for target in (on, on.float(), on.to(torch.uint8), PackedBits.pack(on)):
        for reduction in ("sum", "sample"):
            leaf = decoded.detach().requires_grad_()
            nll = bernoulli_nll(leaf, target, reduction=reduction, backend=BACKENDS[decoded.device.type])
            torch.autograd.grad(nll, leaf, torch.full_like(nll, 0.5))


def decomposition(mu: Tensor, logvar: Tensor) -> None:
    for estimator in ("mws", "mss"):
        if len(mu) > 1:
            leaves = [x.detach().requires_grad_() for x in (mu, mu, logvar)]
            backend = BACKENDS[mu.device.type]
            parts = kl_decomposition(*leaves, dataset_size=10**5, estimator=estimator, backend=backend)
            torch.autograd.grad(torch.stack(parts), leaves, torch.ones(3, device=mu.device))


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of("benchmarks.sanitize", __doc__)
    add_device(parser, "cuda")
    device: str = parser.parse_args(argv).device
    if why := missing(BACKENDS[device]):
        raise SystemExit(f"No kernels to run: {why}")
    for mu, logvar in posteriors(device):
        for reduction in ("dim", "sample", "batchmean"):
            leaves = mu.detach().requires_grad_(), logvar.detach().requires_grad_()
            z, kl = reparameterize_kl(*leaves, reduction=reduction, seed=1, backend=BACKENDS[device])
            torch.autograd.grad((z, kl), leaves, (torch.randn_like(z), torch.ones_like(kl)))
        likelihoods(mu)
        decomposition(mu, logvar)
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()

"""The error against float64 stays within the budget of every backend."""

from __future__ import annotations

import pytest
import torch

from betavae_fast import gaussian_kl, noise, reparameterize_kl
from tests.budget import LOGVAR_BUCKETS, Budget, exact_latent, plain_latent

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.usefixtures("big_tiles", "poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bucket", LOGVAR_BUCKETS)
def test_error(bucket: str, dtype: torch.dtype) -> None:
    low, high = LOGVAR_BUCKETS[bucket]
    if dtype == torch.float16 and high > 20:
        pytest.skip("exp(80) does not fit in float16")
    draw = torch.Generator().manual_seed(7)
    shape = (8192, 8)
    mu = torch.randn(shape, generator=draw).to(dtype).requires_grad_()
    logvar = torch.empty(shape).uniform_(low, high, generator=draw).to(dtype).requires_grad_()
    seed = torch.tensor([3, 4])
    z, kl = reparameterize_kl(mu, logvar, seed=seed, reduction="none", backend="triton")
    grad_z = torch.randn(shape, generator=draw).to(dtype)
    grad_kl = torch.randn(kl.shape, generator=draw)
    grads = torch.autograd.grad([z, kl], [mu, logvar], [grad_z, grad_kl])
    eps = noise.normals(seed, 0, mu.numel()).view(shape)
    exact, plain = (f(mu, logvar, eps, grad_z, grad_kl, "none") for f in (exact_latent, plain_latent))
    for name, got in zip(("z", "kl", "grad_mu", "grad_logvar"), (z, kl, *grads), strict=True):
        budget = Budget()
        budget.add(got, getattr(exact, name), getattr(plain, name))
        budget.check(f"{name} for {bucket} in {dtype}")


@pytest.mark.parametrize("reduction", ["dim", "sample", "batchmean"])
def test_error_of_sums(reduction: str) -> None:
    """The tiles have their real size, because the error of a sum depends on how it is cut up."""
    draw = torch.Generator().manual_seed(7)
    mu, logvar, eps = (torch.randn(900, 10, generator=draw) for _ in range(3))
    kl = gaussian_kl(mu, logvar, reduction=reduction, backend="triton")
    grads = torch.zeros_like(mu), torch.zeros_like(kl)
    budget = Budget()
    budget.add(
        kl,
        exact_latent(mu, logvar, eps, *grads, reduction).kl,
        plain_latent(mu, logvar, eps, *grads, reduction).kl,
    )
    budget.check(reduction)


@pytest.mark.usefixtures("big_tiles")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kl_is_never_negative(dtype: torch.dtype) -> None:
    scale = 2.0 ** torch.arange(-30, 7).repeat_interleave(400)
    logvar = (scale * torch.rand(scale.shape).sub(0.5)).to(dtype)
    kl = gaussian_kl(torch.zeros_like(logvar), logvar, reduction="none", backend="triton")
    assert (kl >= 0).all() and (kl[logvar == 0] == 0).all()

"""The modes of the latent layer, and the two parts of the KL."""

from __future__ import annotations

import math

import pytest
import torch

from betavae_fast.functional import gaussian_kl, reparameterize_kl
from betavae_fast.nn import GaussianLatent, split_kl


@pytest.fixture
def moments() -> torch.Tensor:
    return torch.randn(16, 10, generator=torch.Generator().manual_seed(1))


def test_evaluation_returns_the_mean_and_training_a_sample(moments):
    mu, logvar = moments.chunk(2, dim=1)
    latent = GaussianLatent()
    evaluated = latent.eval()(moments)
    sampled = latent.train()(moments, seed=3)
    assert torch.equal(evaluated.z, mu)
    assert torch.equal(sampled.z, reparameterize_kl(mu, logvar, seed=3).z)
    assert not torch.equal(sampled.z, mu)
    torch.testing.assert_close(evaluated.kl, sampled.kl)
    torch.testing.assert_close(evaluated.kl, gaussian_kl(mu, logvar))


def test_moments_and_separate_tensors_are_the_same(moments):
    mu, logvar = moments.chunk(2, dim=1)
    latent = GaussianLatent()
    for packed, separate in zip(latent(moments, seed=3), latent(mu, logvar, seed=3), strict=True):
        assert torch.equal(packed, separate)


def test_where_the_noise_comes_from_is_passed_on(moments):
    latent = GaussianLatent()
    whole = latent(moments, seed=3).z
    shards = [latent(shard, seed=3, first_row=row).z for row, shard in ((0, moments[:5]), (5, moments[5:]))]
    assert torch.equal(whole, torch.cat(shards))
    mu, logvar = moments.chunk(2, dim=1)
    noise = torch.ones_like(mu)
    torch.testing.assert_close(latent(moments, noise=noise).z, mu + (0.5 * logvar).exp())
    generated = [latent(moments, generator=torch.Generator().manual_seed(5)).z for _ in range(2)]
    assert torch.equal(*generated)


def test_options_reach_the_op(moments):
    mu, logvar = moments.chunk(2, dim=1)
    clamped = GaussianLatent(reduction="sample", logvar_range=(-0.1, 0.1)).eval()(moments)
    assert clamped.kl.shape == (16,)
    torch.testing.assert_close(clamped.kl, gaussian_kl(mu, logvar.clamp(-0.1, 0.1), reduction="sample"))
    with pytest.raises(ValueError, match="backend must be one of"):
        GaussianLatent(backend="nosuch")(moments)


@pytest.mark.parametrize("shape", [(4,), (4, 5)])
def test_moments_that_do_not_split_are_named(shape):
    with pytest.raises(ValueError, match=rf"got \({shape[0]}"):
        GaussianLatent()(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_parts_sum_to_the_kl(moments, dtype):
    mu, logvar = (3 * moments).to(dtype).chunk(2, dim=1)
    mean_dispersion, variance = split_kl(mu, logvar)
    kl = gaussian_kl(mu, logvar)
    assert mean_dispersion.dtype == variance.dtype == kl.dtype
    torch.testing.assert_close(mean_dispersion + variance, kl, rtol=1e-6, atol=1e-7)


def test_the_parts_are_the_formulas_and_each_vanishes_alone():
    mu, logvar = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [-2.0]])
    mean_dispersion = 0.5 * (1 + 9) / 2
    variance = 0.5 * ((math.exp(0.5) - 1 - 0.5) + (math.exp(-2) - 1 + 2)) / 2
    torch.testing.assert_close(torch.cat(split_kl(mu, logvar)), torch.tensor([mean_dispersion, variance]))
    assert split_kl(mu, torch.zeros_like(mu)).variance.item() == 0
    assert split_kl(torch.zeros_like(mu), logvar).mean_dispersion.item() == 0


def test_tiny_variances_do_not_cancel():
    # exp(v) − 1 − v in float32 gives 0 or less here; the exact value is v²/4 per channel.
    logvar = torch.full((1, 1), 1e-4)
    torch.testing.assert_close(
        split_kl(torch.zeros(1, 1), logvar).variance, torch.tensor([0.25e-8]), rtol=0.02, atol=0
    )


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        split_kl(torch.zeros(2, 3), torch.zeros(2, 4))

"""The whole model: its inputs, its outputs and the source of its noise."""

from __future__ import annotations

import pytest
import torch

from betavae_fast.nn import BetaVAE, BetaVAELoss


@pytest.fixture
def vae() -> BetaVAE:
    torch.manual_seed(0)
    return BetaVAE((1, 16, 16), latent_dim=3)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(
        0, 256, (6, 1, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


def test_forward_is_encode_sample_decode(vae, images):
    out = vae(images, seed=5)
    mu, logvar = vae.encode(images)
    assert torch.equal(out.mu, mu) and torch.equal(out.logvar, logvar)
    assert torch.equal(out.z, vae.latent(mu, logvar, seed=5).z)
    torch.testing.assert_close(out.decoded, vae.decode(out.z))


def test_evaluation_decodes_the_posterior_mean(vae, images):
    out = vae.eval()(images)
    assert torch.equal(out.z, out.mu)


def test_pixel_types_mean_the_same(vae, images):
    as_float = vae.encode(images.float() / 255)
    as_bytes = vae.encode(images)
    assert all(torch.equal(a, b) for a, b in zip(as_float, as_bytes, strict=True))
    binary = images > 127
    assert torch.equal(vae.encode(binary)[0], vae.encode(binary.float())[0])


def test_shards_draw_the_noise_of_the_whole_batch(vae, images):
    # The moments are the same, because convolutions with another batch size may round differently.
    mu, logvar = vae.encode(images)
    whole = vae.latent(mu, logvar, seed=5).z
    for first, last in ((0, 2), (2, 6)):
        shard = vae(images[first:last], seed=5, first_row=first)
        torch.testing.assert_close(shard.z, whole[first:last])


def test_every_parameter_learns(vae, images):
    out = vae(images, seed=5)
    BetaVAELoss()(out.decoded, images, out.kl).total.backward()
    silent = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_samples_are_images_and_the_seed_decides_them(vae):
    first, again, other = vae.sample(4, seed=1), vae.sample(4, seed=1), vae.sample(4, seed=2)
    assert first.shape == (4, 1, 16, 16)
    assert first.min() >= 0 and first.max() <= 1 and not first.requires_grad
    assert torch.equal(first, again) and not torch.equal(first, other)
    generated = [vae.sample(4, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*generated)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_pixels_of_a_mean_are_the_mean(likelihood):
    decoded = torch.randn(2, 1, 8, 8)
    assert torch.equal(BetaVAE((1, 8, 8), likelihood=likelihood).pixels(decoded), decoded)


def test_malformed_arguments_are_named(vae):
    with pytest.raises(ValueError, match=r"\(B, 1, 16, 16\), got \(2, 1, 8, 8\)"):
        vae(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"\(B, 3\), got \(2, 4\)"):
        vae.decode(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="got 'poisson'"):
        BetaVAE(likelihood="poisson")
    with pytest.raises(TypeError, match="int32"):
        vae(torch.zeros(2, 1, 16, 16, dtype=torch.int32))

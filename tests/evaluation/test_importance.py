"""The importance-weighted bound is exact where log p(x) is known, and equals the plain formula in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from betavae_fast.evaluation import importance
from betavae_fast.evaluation.importance import ImportanceBound, importance_weighted_bound
from betavae_fast.functional import gaussian_kl, reparameterize
from betavae_fast.nn import BetaVAE

SHAPE, PIXELS, DIMS = (1, 3, 4), 12, 2


def linear_gaussian(noise):
    """x = W z + b + noise · n, and an encoder that is near the true posterior but not it.

    Returns: the model, the images and log p(x) of each.
    """
    torch.manual_seed(0)
    model = BetaVAE(SHAPE, DIMS, "mlp", likelihood="gaussian")
    model.decoder = nn.Sequential(nn.Linear(DIMS, PIXELS), nn.Unflatten(1, SHAPE))
    model.encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2 * DIMS))
    weight, bias = model.decoder[0].weight.detach().double(), model.decoder[0].bias.detach().double()
    posterior = torch.linalg.inv(weight.T @ weight / noise**2 + torch.eye(DIMS))  # its covariance
    to_mean = posterior @ weight.T / noise**2
    with torch.no_grad():
        model.encoder[1].weight.copy_(torch.cat([1.1 * to_mean, torch.zeros(DIMS, PIXELS)]))
        model.encoder[1].bias.copy_(torch.cat([-to_mean @ bias, posterior.diagonal().log() + 0.2]))
    z, n = torch.randn(40, DIMS).double(), torch.randn(40, PIXELS).double()
    x = (z @ weight.T + bias + noise * n).float()
    marginal = torch.distributions.MultivariateNormal(bias, weight @ weight.T + noise**2 * torch.eye(PIXELS))
    return model.eval(), x.view(-1, *SHAPE), marginal.log_prob(x.double())


def reference(model, images, k, *, scale, seed):
    """The bound in float64 from the same codes, image by image: (k,) log weights at a time."""
    bounds = []
    with torch.no_grad():
        mu, logvar = model.encode(images)
        z = reparameterize(mu.repeat_interleave(k, 0), logvar.repeat_interleave(k, 0), seed=seed)
        decoded = model.decode(z).double().view(len(images), k, *model.image_shape)
    z, mu, logvar = z.double().view(len(images), k, -1), mu.double(), logvar.double()
    for i, image in enumerate(images.double()):
        target = image.expand_as(decoded[i])
        pixels = {
            "bernoulli": lambda x: torch.distributions.Bernoulli(logits=x, validate_args=False),
            "gaussian": lambda x: torch.distributions.Normal(x, scale),
            "laplace": lambda x: torch.distributions.Laplace(x, scale),
        }[model.likelihood](decoded[i])
        q = torch.distributions.Normal(mu[i], (0.5 * logvar[i]).exp())
        prior = torch.distributions.Normal(torch.zeros_like(mu[i]), 1.0)
        weights = pixels.log_prob(target).flatten(1).sum(1) + (prior.log_prob(z[i]) - q.log_prob(z[i])).sum(1)
        bounds.append(weights.logsumexp(0) - math.log(k))
    return torch.stack(bounds)


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_it_is_the_likelihood_of_a_linear_gaussian_model(noise):
    """The draws of different images are independent, so the error of the mean has the spread of the errors."""
    model, images, exact = linear_gaussian(noise)
    found = importance_weighted_bound(model, images, 5000, scale=noise)
    error = found.per_image - exact
    assert abs(float(error.mean())) < 4 * float(error.std()) / len(error) ** 0.5 + 1e-5
    assert abs(found.mean - float(exact.mean())) < 0.02
    assert found.standard_error == pytest.approx(float(exact.std()) / len(exact) ** 0.5, rel=0.02)


def test_it_rises_with_the_number_of_codes():
    model, images, exact = linear_gaussian(0.3)
    bounds = [importance_weighted_bound(model, images, k, scale=0.3).mean for k in (1, 10, 100, 5000)]
    assert bounds == sorted(bounds) and bounds[0] < bounds[-1] - 0.1
    assert bounds[-1] < float(exact.mean()) + 0.02


def test_one_code_gives_the_elbo():
    """The mean over many draws is −(reconstruction + KL), whose KL is the closed form."""
    model, images, _ = linear_gaussian(0.3)
    many = images[:1].expand(4000, *SHAPE)
    found = importance_weighted_bound(model, many, 1, scale=0.3)
    with torch.no_grad():
        mu, logvar = (x.double() for x in model.encode(images[:1]))
        covariance = model.decoder[0].weight.double()
        off = (model.decode(mu.float()).double() - images[:1].double()).square().sum()
        spread = (covariance.square() * logvar.exp()).sum()
        expected = (
            -0.5 * (off + spread) / 0.3**2
            - PIXELS * (math.log(0.3) + 0.5 * math.log(2 * math.pi))
            - gaussian_kl(mu, logvar, reduction="sum")
        )
    assert abs(found.mean - float(expected)) < 4 * found.standard_error


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "laplace"])
@pytest.mark.parametrize("architecture, shape", [("burgess", (1, 16, 16)), ("mlp", (2, 5, 7))])
def test_it_is_the_plain_formula(likelihood, architecture, shape):
    torch.manual_seed(1)
    model = BetaVAE(shape, 3, architecture, likelihood=likelihood).eval()
    with torch.no_grad():
        model.encoder.moments.weight.mul_(20)
    images = torch.rand(5, *shape) > 0.5
    scale = 1.0 if likelihood == "bernoulli" else 0.5
    found = importance_weighted_bound(model, images, 37, scale=scale, seed=7)
    expected = reference(model, images.float(), 37, scale=scale, seed=7)
    torch.testing.assert_close(found.per_image, expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 120, 10_000])
def test_the_size_of_the_parts_changes_nothing_but_rounding(batch_size, threads):
    model, images, _ = linear_gaussian(0.3)
    whole = importance_weighted_bound(model, images, 50, scale=0.3)
    counted = []
    for number in (1, 2):
        torch.set_num_threads(number)
        parts = importance_weighted_bound(
            model, images, 50, scale=0.3, batch_size=batch_size, on_codes=counted.append
        )
        torch.testing.assert_close(parts.per_image, whole.per_image, rtol=1e-5, atol=1e-5)
    assert sum(counted) == 2 * 40 * 50 and max(counted) <= max(batch_size, 1)


def test_only_some_parts_are_held_at_a_time(monkeypatch):
    model, images, _ = linear_gaussian(0.3)
    whole = importance_weighted_bound(model, images, 50, scale=0.3)
    monkeypatch.setattr(importance, "_PARTS_AT_ONCE", 3)
    again = importance_weighted_bound(model, images, 50, scale=0.3)
    assert torch.equal(again.per_image, whole.per_image)


def test_a_decoder_of_ones_own_runs_itself():
    model, images, _ = linear_gaussian(0.3)
    whole = importance_weighted_bound(model, images, 20, scale=0.3)
    plain, calls = model.decode, []
    model.decode = lambda z: calls.append(len(z)) or plain(z)
    again = importance_weighted_bound(model, images, 20, scale=0.3)
    assert sum(calls) == 800
    torch.testing.assert_close(again.per_image, whole.per_image, rtol=1e-6, atol=1e-6)


def test_the_range_of_the_log_variances_is_that_of_training():
    model, images, _ = linear_gaussian(0.3)
    model.latent.logvar_range = (-2.0, 2.0)
    wide = importance_weighted_bound(model, images, 1, scale=0.3)
    model.latent.logvar_range = None
    assert wide.mean < importance_weighted_bound(model, images, 1, scale=0.3).mean


def test_bytes_arrays_and_bfloat16():
    torch.manual_seed(0)
    model = BetaVAE((1, 16, 16), 3).eval()
    images = (np.random.default_rng(0).random((4, 16, 16)) > 0.5).astype(np.uint8) * 255
    found = importance_weighted_bound(model, images, 20)
    again = importance_weighted_bound(model, torch.from_numpy(images).unsqueeze(1) > 0, 20)
    torch.testing.assert_close(found.per_image, again.per_image)
    coarse = importance_weighted_bound(model, images, 20, precision=torch.bfloat16)
    torch.testing.assert_close(coarse.per_image, found.per_image, rtol=1e-3, atol=0)


def test_what_is_no_image_or_no_number_is_refused():
    model = BetaVAE((1, 8, 8), 2).eval()
    good = torch.zeros(2, 8, 8)
    for images, message in (
        (torch.zeros(2, 8, 9), r"images must have shape \(B, 1, 8, 8\) or \(B, 8, 8\), got \(2, 8, 9\)"),
        (good[:0], "images must be at least one, got none"),
        (good + 2, r"floating-point pixels must be finite and lie in \[0, 1\], got 2 to 2"),
        (good * float("nan"), "floating-point pixels must be finite and lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            importance_weighted_bound(model, images, 3)
    with pytest.raises(TypeError, match="images must be bool, uint8 or floating point"):
        importance_weighted_bound(model, good.to(torch.int16), 3)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        importance_weighted_bound(model, good, 0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        importance_weighted_bound(model, good, 3, batch_size=0)
    with pytest.raises(ValueError, match=r"a Bernoulli likelihood has no scale, got scale=0\.5"):
        importance_weighted_bound(model, good, 3, scale=0.5)
    with torch.no_grad():
        model.decoder.fc1.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="the bound of image 0 is nan"):
        importance_weighted_bound(model, good, 3)


def test_a_single_image_has_no_standard_error():
    assert math.isnan(ImportanceBound(5, torch.tensor([-3.0], dtype=torch.float64)).standard_error)

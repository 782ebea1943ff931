"""Layers, losses and models under the transforms of torch.func: per-sample gradients, ensembles, curvature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from betavae_fast import BetaVAE, BetaVAELoss, DiagonalGaussian, GaussianLatent
from betavae_fast.choices import Architecture, Likelihood
from betavae_fast.noise import make_rng, normals

State = dict[str, Tensor]
ARCHITECTURES = pytest.mark.parametrize("architecture", get_args(Architecture))


class Step(nn.Module):
    """A module that computes the loss of images."""

    def __init__(self, architecture: Architecture = "burgess", likelihood: Likelihood = "bernoulli") -> None:
        super().__init__()
        self.vae = BetaVAE((1, 8, 8), 3, architecture, likelihood=likelihood)
        self.loss = BetaVAELoss(2.0, likelihood)

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        out = self.vae(images, seed=seed)
        return self.loss(out.decoded, images, out.kl).total


def step(architecture: Architecture = "burgess", number: int = 0, dtype: torch.dtype = torch.float64) -> Step:
    torch.manual_seed(number)
    return Step(architecture).to(dtype)


def batch(count: int) -> tuple[Tensor, Tensor]:
    """Images, and a seed for each."""
    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=g, dtype=torch.uint8)
    return images, torch.stack((torch.arange(count), torch.full((count,), 5)), 1)


def parameters_of(module: nn.Module) -> State:
    return {name: p.detach() for name, p in module.named_parameters()}


@ARCHITECTURES
@pytest.mark.parametrize("pixels", [torch.uint8, torch.bool, torch.float64], ids=str)
def test_per_sample_gradients_are_those_of_a_loop(architecture: Architecture, pixels: torch.dtype) -> None:
    module = step(architecture)
    images, seeds = batch(5)
    if pixels != torch.uint8:
        images = images > 127 if pixels == torch.bool else images.double() / 255

    def loss(p: State, image: Tensor, seed: Tensor) -> Tensor:
        return functional_call(module, p, (image[None], seed))

    found = vmap(grad(loss), (None, 0, 0))(parameters_of(module), images, seeds)
    for i in range(5):
        total = module(images[i : i + 1], seeds[i])
        expected = torch.autograd.grad(total, tuple(module.parameters()))
        torch.testing.assert_close(
            tuple(g[i] for g in found.values()), expected, rtol=1e-12, atol=1e-12 * total.item()
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=str)
def test_eight_models_are_eight_calls(dtype: torch.dtype, tolerance: float) -> None:
    models = [step(number=i, dtype=dtype) for i in range(8)]
    parameters, buffers = stack_module_state(models)
    images, seeds = batch(8)

    def loss(p: State, b: State, seed: Tensor) -> Tensor:
        return functional_call(models[0], (p, b), (images, seed))

    shared = vmap(loss, (0, 0, None))(parameters, buffers, seeds[3])
    expected = torch.stack([model(images, seeds[3]) for model in models])
    torch.testing.assert_close(shared, expected, rtol=tolerance, atol=0)
    own = vmap(loss)(parameters, buffers, seeds)
    expected = torch.stack([model(images, seed) for model, seed in zip(models, seeds, strict=True)])
    torch.testing.assert_close(own, expected, rtol=tolerance, atol=0)
    own.sum().backward()  # an ensemble's training step
    expected.sum().backward()
    for name, stacked in parameters.items():
        gradients = torch.stack([dict(model.named_parameters())[name].grad for model in models])
        close = 0.0 if not gradients.any() else float(gradients.abs().max())
        torch.testing.assert_close(stacked.grad, gradients, rtol=tolerance, atol=10 * tolerance * close)


def test_curvature_along_a_direction() -> None:
    """The product of Hessian and vector, forward over reverse, against a difference quotient."""
    module = step("mlp")
    images, seeds = batch(2)
    at = parameters_of(module)
    along = {name: torch.randn_like(p) for name, p in at.items()}

    def loss(p: State) -> Tensor:
        return functional_call(module, p, (images, seeds[0]))

    _, product = jvp(grad(loss), (at,), (along,))
    size = 1e-5
    ahead, behind = (grad(loss)({k: at[k] + h * along[k] for k in at}) for h in (size, -size))
    for name, value in product.items():
        expected = (ahead[name] - behind[name]) / (2 * size)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian])
def test_the_decoder_s_and_the_encoder_s_derivatives(transform: Callable[..., Any]) -> None:
    """jacrev, jacfwd and hessian of the whole model by its image agree with torch.autograd.functional's."""
    module = step().requires_grad_(False)
    images, seeds = batch(1)
    x = images.double() / 255

    def loss(y: Tensor) -> Tensor:
        out = module.vae(y, seed=seeds[0])
        return module.loss(out.decoded, x, out.kl).total

    reference = {jacrev: "jacobian", jacfwd: "jacobian", hessian: "hessian"}[transform]
    expected = getattr(torch.autograd.functional, reference)(loss, x)
    torch.testing.assert_close(transform(loss)(x), expected, rtol=1e-9, atol=1e-9)


def plain_posterior(moments: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    mu, logvar = moments.chunk(2, 1)
    eps = normals(seed, 0, mu.numel()).view(mu.shape).to(mu.dtype)
    kl = (mu**2 + torch.exp(logvar) - 1 - logvar) / 2
    return mu + torch.exp(logvar / 2) * eps, kl


@pytest.mark.parametrize("transform", [jacrev, jacfwd, lambda f: vmap(grad(lambda x: f(x[None])[0].sum()))])
def test_the_latent_layer(transform: Callable[..., Any]) -> None:
    seed, moments = make_rng("cpu", seed=3), torch.randn(4, 6, dtype=torch.float64)

    def ours(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(GaussianLatent()(x, seed=seed))

    def plain(x: Tensor) -> tuple[Tensor, ...]:
        z, kl = plain_posterior(x, seed)
        return (z, kl.mean(0), *x.chunk(2, 1))

    torch.testing.assert_close(transform(ours)(moments), transform(plain)(moments))


def test_the_posterior_of_latent_diffusion() -> None:
    """Its cached KL must not leave the transform in which it was computed."""
    moments = torch.randn(3, 4, 6, 2, 2, dtype=torch.float64)
    inside = []

    def kl_after_sample(x: Tensor) -> Tensor:
        posterior = DiagonalGaussian(x)
        z = posterior.sample(noise=torch.ones(4, 3, 2, 2, dtype=x.dtype))
        inside.append(posterior)
        return posterior.kl().sum() + z.sum() + posterior.nll(z).sum()

    def plain(x: Tensor) -> Tensor:
        mu, logvar = x.chunk(2, 1)
        z = mu + torch.exp(logvar / 2)
        kl = (mu**2 + torch.exp(logvar) - 1 - logvar) / 2
        density = torch.distributions.Normal(mu, torch.exp(logvar / 2), validate_args=False)
        return kl.sum() + z.sum() - density.log_prob(z).sum()

    close: Any = torch.testing.assert_close
    close(vmap(grad(kl_after_sample))(moments), vmap(grad(plain))(moments))
    close(jacfwd(vmap(kl_after_sample))(moments), jacfwd(vmap(plain))(moments))
    assert all(posterior._posterior._kept is None for posterior in inside)


def test_randomness_of_a_model() -> None:
    module = step()
    images, _ = batch(1)

    def sample(image: Tensor) -> Tensor:
        return module.vae(image[None]).z

    copies = images.expand(3, 1, 8, 8)
    with pytest.raises(RuntimeError, match="randomness error mode"):
        vmap(sample)(copies)
    same, different = (vmap(sample, randomness=how)(copies) for how in ("same", "different"))
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
    assert len({tuple(z.flatten().tolist()) for z in different}) == 3

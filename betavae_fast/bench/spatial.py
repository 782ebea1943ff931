"""Spatial latents: sample and KL of an encoder's packed output, as in latent diffusion, contiguous and channels-last."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from betavae_fast import DiagonalGaussian
from betavae_fast.bench import latent
from betavae_fast.bench.contenders import through_compiler
from betavae_fast.bench.registry import Contender, Forward, Op, Outputs, Problem, Shape


def setup(
    shape: Shape, dtype: torch.dtype, device: torch.device, seed: int, *, channels_last: bool
) -> Problem:
    """Posteriors as in the latent op's problem, packed (B, 2·C, ...), with gradients for z and for each image's KL."""
    generator = torch.Generator(device).manual_seed(seed)
    memory_format = torch.contiguous_format
    if channels_last:
        memory_format = torch.channels_last if len(shape) == 4 else torch.channels_last_3d

    def lay_out(x: Tensor) -> Tensor:
        return x.to(dtype).contiguous(memory_format=memory_format)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    parameters = lay_out(torch.cat((normal(), 0.5 * normal() - 1), 1)).requires_grad_()
    grad_kl = 1 + torch.randn(shape[:1], generator=generator, device=device).abs()
    return Problem((parameters,), (lay_out(normal()), grad_kl), lay_out(normal()))


def eager(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    """The formula of diffusers' DiagonalGaussianDistribution, summed over all dimensions but the batch."""
    mean, logvar = inputs[0].chunk(2, dim=1)
    logvar = logvar.clamp(-30.0, 20.0)
    std, var = (0.5 * logvar).exp(), logvar.exp()
    if noise is None:
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device)
    kl = 0.5 * (mean.pow(2) + var - 1.0 - logvar).sum(tuple(range(1, mean.dim())))
    return mean + std * noise, kl


def fused(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    posterior = DiagonalGaussian(inputs[0])
    return posterior.sample(noise=noise), posterior.kl()


def recover_noise(inputs: tuple[Tensor, ...], outputs: Outputs) -> Tensor:
    return latent.recover_noise(inputs[0].chunk(2, dim=1), outputs)


def _diffusers() -> Forward:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    def forward(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
        posterior = DiagonalGaussianDistribution(inputs[0])
        z = posterior.sample() if noise is None else posterior.mean + posterior.std * noise
        return z, posterior.kl().flatten(1).sum(1) if z.dim() > 4 else posterior.kl()

    return forward


def contenders(device: str) -> tuple[Contender, ...]:
    absent = "" if find_spec("diffusers") else "diffusers is not installed"
    return (
        Contender("eager", lambda: eager),
        Contender("diffusers", _diffusers, missing=absent),
        *through_compiler(eager, device),
        Contender("DiagonalGaussian", lambda: fused, ours=True),
    )


_SHAPES = ((64, 8, 64, 64), (8, 16, 8, 32, 32))

CONTIGUOUS = Op(
    name="spatial",
    shapes={"cpu": _SHAPES, "cuda": _SHAPES},
    dtypes=("fp32", "bf16"),
    outputs=("z", "kl"),
    setup=partial(setup, channels_last=False),
    formula=eager,
    contenders=contenders,
    cost=latent.OP.cost,
    recover_noise=recover_noise,
)


def _unfit_channels_last(shape: Shape) -> str:
    return "" if len(shape) in (4, 5) else "has no channels-last format, which needs 4 or 5 dimensions"


CHANNELS_LAST = replace(
    CONTIGUOUS,
    name="spatial_channels_last",
    setup=partial(setup, channels_last=True),
    unfit=_unfit_channels_last,
)

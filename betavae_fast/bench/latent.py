"""The latent op: z = μ + exp(½ log σ²) ε and the KL of each latent dim, averaged over the batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from betavae_fast.bench.contenders import REFERENCE_MAX_ELEMENTS, of_backends, through_compiler
from betavae_fast.bench.registry import Contender, Cost, Op, Outputs, Problem, Shape
from betavae_fast.functional import reparameterize_kl


def setup(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int) -> Problem:
    """Posteriors like those of a trained model, σ between about 0.2 and 1.6, and a gradient for each output.

    The KL's gradient is large, because the mean over the batch divides it again. Otherwise the parity check could not see
    the KL's part of the gradients beside z's.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    mu = normal(*shape).to(dtype).requires_grad_()
    logvar = (0.5 * normal(*shape) - 1).to(dtype).requires_grad_()
    grad_z, grad_kl = normal(*shape).to(dtype), min(shape[0], 1024) * (1 + normal(*shape[1:]).abs())
    return Problem((mu, logvar), (grad_z, grad_kl), normal(*shape).to(dtype))


def eager(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    """The textbook formula."""
    mu, logvar = inputs
    z = mu + (0.5 * logvar).exp() * (torch.randn_like(mu) if noise is None else noise)
    kl = (-0.5 * (1 + logvar - mu**2 - logvar.exp())).mean(0)
    return z, kl


def distributions(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    mu, logvar = inputs
    posterior = Normal(mu, (0.5 * logvar).exp())
    prior = Normal(torch.zeros((), dtype=mu.dtype, device=mu.device), 1.0)
    # rsample() accepts no noise, so its formula is written out for given noise.
    z = posterior.rsample() if noise is None else posterior.loc + noise * posterior.scale
    return z, kl_divergence(posterior, prior).mean(0)


def recover_noise(inputs: tuple[Tensor, ...], outputs: Outputs) -> Tensor:
    (mu, logvar), (z, _) = inputs, outputs
    return (z - mu) * (-0.5 * logvar).exp()


def _ours(backend: str, inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    mu, logvar = inputs
    return reparameterize_kl(mu, logvar, noise=noise, backend=backend)  # type: ignore[arg-type]


def contenders(device: str) -> tuple[Contender, ...]:
    peers = Contender("eager", lambda: eager), Contender("distributions", lambda: distributions)
    return (*peers, *through_compiler(eager, device), *of_backends(_ours, device, REFERENCE_MAX_ELEMENTS))


# A normal number costs half of a Box–Muller pair (log, sin, cos; three products and a root) and a quarter of a Philox
# block (10 rounds of two wide products and two three-way xors). One exp gives σ, and four more operations give expm1.
_NOISE = Cost(reads=0, writes=0, transcendentals=1.5, arithmetic=2, integer=10)
_SPREAD = Cost(reads=0, writes=0, transcendentals=1, arithmetic=4, integer=0)
# z: 1. KL: ½μ·μ + (½ expm1 − ½v): 3, and 1 to add it up.
_FORWARD = Cost(reads=2, writes=1, transcendentals=0, arithmetic=5, integer=0) + _NOISE + _SPREAD
# ∂μ: 1. ∂v: ½σ·ε·∂z + ½expm1·∂kl: 4. The noise is drawn again instead of read.
_BACKWARD = Cost(reads=3, writes=2, transcendentals=0, arithmetic=5, integer=0) + _NOISE + _SPREAD

OP = Op(
    name="latent",
    shapes={
        "cpu": ((65536, 128), (65536, 16), (4096, 10), (64, 10)),
        "cuda": (
            (1 << 20, 64),
            (64, 8 * 64 * 64),
            (4096, 10),
            (64, 10),
            (65536, 128),
            (65536, 16),
            (1 << 20, 128),
        ),
    },
    dtypes=("fp32", "bf16"),
    outputs=("z", "kl"),
    setup=setup,
    formula=eager,
    contenders=contenders,
    cost={"forward": _FORWARD, "backward": _BACKWARD},
    recover_noise=recover_noise,
)

# Shapes that show how the time grows with the batch at 32 channels, and with the channels at 4096 rows.
_ROWS, _CHANNELS = (64, 256, 1024, 16384, 65536), (2, 8, 32, 128, 512, 2048)
_GRID = tuple((rows, 32) for rows in _ROWS) + tuple((4096, channels) for channels in _CHANNELS)
SCALING = replace(OP, name="latent_scaling", shapes={"cpu": _GRID, "cuda": _GRID}, dtypes=("fp32",))

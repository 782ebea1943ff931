"""The decomposition of a batch's KL: log q(z) and each log q(z_d) from all pairs of rows, and their gradients."""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from betavae_fast.bench.contenders import of_backends, through_compiler
from betavae_fast.bench.registry import Contender, Cost, Op, Outputs, Problem, Shape
from betavae_fast.functional import kl_decomposition

DATASET_SIZE = 737_280
# Eager code keeps seven tensors of B × B × D: 168 MB each at (2048, 10), 2.7 GB each at (8192, 10).
_EAGER_TENSORS = 8
_EAGER_MAX_ELEMENTS = {"cpu": 2048 * 2048 * 10, "cuda": 8192 * 8192 * 10}
# The parity check applies the formula to all pairs of rows, in float64 too, so that the batch must not be too large.
_MOST_ROWS = 32768
# Terms that the formula computes at a time. On a CPU they fit into the cache: 1.7 s instead of 6.0 for 2048 rows in
# float64 with one thread.
_FORMULA_TERMS = {"cpu": 1 << 20, "cuda": 1 << 24}


def setup(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int) -> Problem:
    """Posteriors like those of a trained model, σ between about 0.2 and 1.6, a sample of each, and β-TCVAE's weights."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    mu, logvar = normal(), 0.5 * normal() - 1
    z = mu + torch.exp(0.5 * logvar) * normal()
    leaves = tuple(x.to(dtype).requires_grad_() for x in (z, mu, logvar))
    return Problem(leaves, (torch.tensor([1.0, 6.0, 1.0], device=device),), None)


def _log_normal(z: Tensor, mu: Tensor | float, logvar: Tensor | float) -> Tensor:
    inverse = torch.exp(-0.5 * logvar) if isinstance(logvar, Tensor) else 1.0
    return -0.5 * (((z - mu) * inverse) ** 2 + logvar + log(2 * pi))


def _aggregated(rows: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z) and the sum of log q(z_d) of these rows of z by stratified sampling, in the code people usually write."""
    batch, others = len(mu), len(mu) - 1
    column = torch.arange(batch, device=z.device)
    log_weights = torch.full((len(rows), batch), -log(others), dtype=z.dtype, device=z.device)
    rest = log((DATASET_SIZE - others) / (DATASET_SIZE * others))
    log_weights = torch.where(column == (rows.unsqueeze(1) + 1) % batch, rest, log_weights)
    log_weights = torch.where(column == rows.unsqueeze(1), -log(DATASET_SIZE), log_weights)
    log_density = _log_normal(z.unsqueeze(1), mu, logvar)
    joint = torch.logsumexp(log_density.sum(2) + log_weights, 1)
    return joint, torch.logsumexp(log_density + log_weights.unsqueeze(2), 1).sum(1)


def _parts(z: Tensor, mu: Tensor, logvar: Tensor, joint: Tensor, product: Tensor) -> Outputs:
    conditional, prior = _log_normal(z, mu, logvar).sum(1), _log_normal(z, 0.0, 0.0).sum(1)
    return (torch.stack(((conditional - joint).mean(), (joint - product).mean(), (product - prior).mean())),)


def eager(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    z, mu, logvar = inputs
    joint, product = _aggregated(torch.arange(len(z), device=z.device), z, mu, logvar)
    return _parts(z, mu, logvar, joint, product)


def formula(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    """The same as ``eager``, some rows at a time and recomputed in backward, so that it needs much less memory."""
    z, mu, logvar = inputs
    every = torch.arange(len(z), device=z.device)
    found = [
        checkpoint(_aggregated, rows, z[rows], mu, logvar, use_reentrant=False)
        for rows in every.split(max(1, _FORMULA_TERMS[z.device.type] // mu.numel()))
    ]
    joint, product = (torch.cat([group[i] for group in found]) for i in range(2))
    return _parts(z, mu, logvar, joint, product)


def _ours(backend: str, inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    return (torch.stack(kl_decomposition(*inputs, dataset_size=DATASET_SIZE, backend=backend)),)  # type: ignore[arg-type]


def _eager_max_elements(device: str) -> int:
    """The largest problem that is worth eager's time and fits into the memory of the GPU."""
    most = _EAGER_MAX_ELEMENTS[device]
    if device == "cpu" or not torch.cuda.is_available():
        return most
    return min(most, torch.cuda.mem_get_info()[0] // (4 * _EAGER_TENSORS))


def contenders(device: str) -> tuple[Contender, ...]:
    most = _eager_max_elements(device)
    plain = Contender("eager", lambda: eager, max_elements=most)
    return (plain, *through_compiler(eager, device, max_elements=most), *of_backends(_ours, device, most))


# One exp for each pair's density, and one for each channel's. (z − μ)/σ: 2, its square + log σ²: 1, the sum over
# channels: 1, and 1 to add the exponential up.
_FORWARD = Cost(
    reads=3, writes=0, transcendentals=0, arithmetic=0, integer=0, pair_exponentials=1, pair_arithmetic=5
)
# Computing the density again: 4. W = g p + g_d p_d: 2, W (z − μ)/σ: 1, and 3 to add up three gradients.
_BACKWARD = Cost(
    reads=3, writes=3, transcendentals=0, arithmetic=0, integer=0, pair_exponentials=1, pair_arithmetic=10
)


def _size(shape: Shape) -> int:
    batch, latent_dim = shape
    return batch * batch * latent_dim


def _unfit(shape: Shape) -> str:
    if len(shape) == 2 and 2 <= shape[0] <= _MOST_ROWS:
        # With one channel, the plain formula's errors cancel, and any other implementation would look wrong beside it.
        return "is always 0: one channel has no total correlation" if shape[1] == 1 else ""
    return f"needs a batch of 2 to {_MOST_ROWS} rows of channels, because all pairs of rows are compared"


OP = Op(
    name="log_densities",
    shapes={"cpu": ((2048, 10), (256, 10)), "cuda": ((2048, 10), (8192, 10), (256, 10))},
    dtypes=("fp32",),
    outputs=("parts",),
    setup=setup,
    formula=formula,
    contenders=contenders,
    cost={"forward": _FORWARD, "backward": _BACKWARD},
    size=_size,
    unfit=_unfit,
)

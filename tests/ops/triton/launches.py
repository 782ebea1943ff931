"""The launches of the Triton operators, found by calling them with tensors without memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine_code.triton import Launch, launches_of
from betavae_fast.ops.operators import OPERATORS
from betavae_fast.ops.reductions import ESTIMATORS, LIKELIHOODS, REDUCTIONS, empty_kl, empty_nll
from betavae_fast.ops.triton import bias_relu, kl_parts, latent, likelihood, log_densities
from tests.layouts import LAYOUTS, fits, lay_out
from tests.ops.triton.likelihoods import KINDS, NLL_REDUCTIONS

_CALLS = 300  # for each operator
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_UNLIMITED, _LIMITED = (-float("inf"), float("inf")), (-10.0, 10.0)
# Shapes with one row, one column, rows that share a tile or take several, and more than 2³¹ elements.
_LATENTS = (
    *((1, 1), (1500, 1), (230, 10), (65, 38), (5, 1001), (1024, 128), (1 << 25, 128)),
    *((2, 6, 5, 7), (16, 4, 32, 32)),
)
_IMAGES = ((9,), (300, 1), (5, 9), (64, 784), (3, 1300), (1 << 22, 784), (2, 3, 5, 7), (16, 3, 64, 64))
# The last shape has more channels than the second axis of a grid is long.
_BATCHES = ((2, 1), (3, 33), (130, 7), (300, 10), (700, 10), (5000, 10), (3, 70_000))

# Shapes with one tile and several, runs of 1, 2, 4 and 8 channels or pixels, and more than 2³¹ elements.
_HIDDEN = (
    *((1, 1), (7, 2), (64, 256), (5000, 1200), (2, 3, 5, 7), (2, 12, 3, 2), (3, 33, 2, 2), (16, 4, 64, 64)),
    *((64, 32, 32, 32), (1 << 22, 1024), (1 << 16, 64, 32, 32)),
)

FAMILIES = {
    "latent": latent,
    "likelihood": likelihood,
    "log_densities": log_densities,
    "kl_parts": kl_parts,
    "bias_relu": bias_relu,
}

_Arguments = tuple[Any, ...]


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _tensors(draw: Random, number: int, shapes: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
    """Make tensors of one shape and dtype, perhaps with rows so far apart that offsets within a tile need 64 bits."""
    shape, dtype = draw.choice(shapes), draw.choice(_DTYPES)
    if draw.random() < 0.05:
        return (empty(300, 1 << 31, dtype=dtype)[:, : draw.choice((4, 38))],) * number
    layout = draw.choice([name for name in LAYOUTS if fits(name, len(shape))])
    return lay_out(layout, *(empty(*shape, dtype=dtype) for _ in range(number)))


def _drawn(draw: Random, like: Tensor) -> _Arguments:
    """Draw rng, noise, first_row, logvar_min and logvar_max."""
    noise = draw.choice((None, torch.empty_like(like)))
    rng = None if noise is not None else empty(2, dtype=torch.int64)
    return rng, noise, draw.choice((0, 1, 1 << 33)), *draw.choice((_UNLIMITED, _LIMITED))


def _upstream(draw: Random, mu: Tensor, reduction: int) -> tuple[Tensor | None, Tensor | None]:
    """Draw grad_z and grad_kl, one of which may be None."""
    (grad_z,) = lay_out(draw.choice([name for name in LAYOUTS if fits(name, mu.dim())]), empty(*mu.shape))
    grad_kl = empty_kl(mu, reduction)
    return draw.choice(((grad_z.to(mu.dtype), grad_kl), (grad_z.to(mu.dtype), None), (None, grad_kl)))


def _latent_forward(draw: Random) -> _Arguments:
    mu, logvar = _tensors(draw, 2, _LATENTS)
    return mu, logvar, *_drawn(draw, mu), draw.choice(list(REDUCTIONS.values()))


def _latent_backward(draw: Random) -> _Arguments:
    mu, logvar, *settings, reduction = _latent_forward(draw)
    needs = draw.choice(((True, True), (True, False), (False, True)))
    return *_upstream(draw, mu, reduction), mu, logvar, *settings, reduction, *needs


def _latent_backward_packed(draw: Random) -> _Arguments:
    (packed,) = _tensors(draw, 1, tuple(shape for shape in _LATENTS if shape[1] % 2 == 0))
    mu, reduction = packed.chunk(2, 1)[0], draw.choice(list(REDUCTIONS.values()))
    return *_upstream(draw, mu, reduction), packed, *_drawn(draw, mu), reduction


def _pixels(draw: Random) -> _Arguments:
    """Draw decoded, target, packed, likelihood, scale and reduction."""
    decoded, target = _tensors(draw, 2, _IMAGES)
    kind = draw.choice(KINDS)
    if kind == "bits":
        target = empty(len(decoded), -(-decoded[0].numel() // 8), dtype=torch.uint8)
    elif kind != "own":
        target = target.to(getattr(torch, kind))
    reduction = REDUCTIONS[draw.choice(NLL_REDUCTIONS)]
    return decoded, target, kind == "bits", draw.choice(list(LIKELIHOODS.values())), 0.5, reduction


def _likelihood_backward(draw: Random) -> _Arguments:
    decoded, target, *settings, reduction = _pixels(draw)
    nll = empty_nll(decoded, reduction)
    grad_nll = draw.choice((torch.empty_like(nll), empty().expand(nll.shape)))
    return grad_nll, decoded, target, *settings, reduction


def _likelihood_finish(draw: Random) -> _Arguments:
    decoded, target, *settings, _ = _pixels(draw)
    reduction = draw.choice([REDUCTIONS[name] for name in ("batchmean", "sum")])
    return torch.empty_like(decoded), empty(), decoded, target, *settings, reduction


def _log_densities_forward(draw: Random) -> _Arguments:
    z, mu, logvar = _tensors(draw, 3, _BATCHES)
    settings = 0, draw.choice((10_000, 1 << 40)), draw.choice(list(ESTIMATORS.values()))
    return z[: draw.choice((1, len(z)))], mu, logvar, *settings


def _log_densities_backward(draw: Random) -> _Arguments:
    inputs = _log_densities_forward(draw)
    logs = OPERATORS["log_densities_forward"]["cpp"](*inputs)
    return *map(torch.empty_like, logs), *inputs[:3], *logs, *inputs[3:]


def _kl_parts(draw: Random) -> _Arguments:
    dtype = draw.choice((torch.float32, torch.float64))
    z, mu, logvar = (x.to(dtype) for x in _tensors(draw, 3, _BATCHES))
    return z, mu, logvar, *OPERATORS["log_densities_forward"]["cpp"](z, mu, logvar, 0, 1 << 40, 0)


def _kl_parts_backward(draw: Random) -> _Arguments:
    z, mu, logvar, *_ = _kl_parts(draw)
    of_posteriors = draw.choice(((torch.empty_like(mu), torch.empty_like(logvar)), (None, None)))
    return empty(3, dtype=z.dtype), z, mu, logvar, torch.empty_like(z), *of_posteriors


def _bias_relu(draw: Random) -> _Arguments:
    """x, bias"""
    shape, dtype = draw.choice(_HIDDEN), draw.choice((*_DTYPES, torch.float64))
    x = empty(*shape, dtype=dtype)
    if len(shape) == 4 and draw.random() < 0.5:
        x = x.to(memory_format=torch.channels_last)
    return x, empty(shape[1], dtype=draw.choice((dtype, torch.float32)))


def _bias_relu_backward(draw: Random) -> _Arguments:
    output, bias = _bias_relu(draw)
    return torch.empty_like(output), output, draw.choice((None, empty(1, dtype=torch.int32))), bias.dtype


# The draw of each operator's arguments.
ARGUMENTS: dict[str, Callable[[Random], _Arguments]] = {
    "latent_forward": _latent_forward,
    "latent_sample": lambda draw: _latent_forward(draw)[:-1],
    "latent_kl": lambda draw: (*(arguments := _latent_forward(draw))[:2], *arguments[-3:]),
    "latent_backward": _latent_backward,
    "latent_backward_packed": _latent_backward_packed,
    "likelihood_forward": lambda draw: (*_pixels(draw), draw.choice((True, False))),
    "likelihood_backward": _likelihood_backward,
    "likelihood_finish": _likelihood_finish,
    "log_densities_forward": _log_densities_forward,
    "log_densities_backward": _log_densities_backward,
    "kl_parts": _kl_parts,
    "kl_parts_backward": _kl_parts_backward,
    "bias_relu_": _bias_relu,
    "bias_relu_backward": _bias_relu_backward,
}


@cache
def launches(family: str) -> list[Launch]:
    """The launches of a family's operators in hundreds of calls, the same calls every time."""
    draw = Random(0)
    found = []
    for op in (op for op in ARGUMENTS if op.startswith(family)):
        for _ in range(_CALLS):
            found += launches_of(partial(getattr(FAMILIES[family], op), *ARGUMENTS[op](draw)))
    return found

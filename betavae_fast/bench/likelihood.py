"""The likelihood op: −log p(target | decoder's output), summed over the batch, and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import log, pi

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from betavae_fast.bench.contenders import BACKENDS, REFERENCE_MAX_ELEMENTS, through_compiler
from betavae_fast.bench.registry import Contender, Cost, Forward, Op, Outputs, Problem, Shape
from betavae_fast.functional import PackedBits, bernoulli_nll, gaussian_nll, laplace_nll
from betavae_fast.ops.backends import missing

_SCALE = 0.5

Nll = Callable[..., Tensor]


def setup(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int, *, binary: bool) -> Problem:
    """A decoder's output, and images as floats, bytes, bools and bits.

    Grey images have no bools or bits; the tensors in those two places are then unused.
    """
    generator = torch.Generator(device).manual_seed(seed)
    decoded = (2 * torch.randn(shape, generator=generator, device=device)).to(dtype).requires_grad_()
    bytes_ = torch.randint(0, 256, shape, generator=generator, device=device, dtype=torch.uint8)
    if binary:
        bytes_ = (bytes_ < 32).to(torch.uint8) * 255
    # 0 and 1 are exact in any dtype. Grey values stay float32, the precision in which the kernels convert bytes.
    floats = bytes_.float() / 255
    bools = bytes_ > 127
    return Problem(
        (decoded, floats.to(dtype) if binary else floats, bytes_, bools, PackedBits.pack(bools).rows),
        (torch.ones((), device=device),),
        None,
    )


def eager_bernoulli(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    # The sum over the pixels would overflow in float16. Autocast computes it in float32, too.
    logits, target = (x.float() if x.dtype == torch.float16 else x for x in inputs[:2])
    return (binary_cross_entropy_with_logits(logits, target, reduction="sum"),)


def eager_gaussian(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    mean, target, *_ = inputs
    constant = mean.numel() * (log(_SCALE) + 0.5 * log(2 * pi))
    return (0.5 * ((mean - target) / _SCALE).square().sum() + constant,)


def eager_laplace(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    mean, target, *_ = inputs
    return ((mean - target).abs().sum() / _SCALE + mean.numel() * log(2 * _SCALE),)


# The position of each kind of target among a problem's inputs.
_TARGETS = {"float": 1, "uint8": 2, "bool": 3, "bits": 4}


def _ours(nll: Nll, kind: str, backend: str, inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    target = inputs[_TARGETS[kind]]
    return (
        nll(inputs[0], PackedBits(target) if kind == "bits" else target, reduction="sum", backend=backend),
    )


def contenders(device: str, *, eager: Forward, nll: Nll, kinds: tuple[str, ...]) -> tuple[Contender, ...]:
    reference = partial(_ours, nll, kinds[0], "reference")
    return (
        Contender("eager", lambda: eager),
        *through_compiler(eager, device),
        Contender("reference", lambda: reference, ours=True, max_elements=REFERENCE_MAX_ELEMENTS),
        *(
            Contender(
                f"{backend}-{kind}",
                partial(partial, _ours, nll, kind, backend),
                ours=True,
                missing=missing(backend),
            )
            for backend in BACKENDS[device]
            for kind in kinds
        ),
    )


def _op(name: str, nll: Nll, eager: Forward, kinds: tuple[str, ...], cost: Cost) -> Op:
    return Op(
        name=name,
        shapes={
            "cpu": ((1024, 1, 64, 64), (64, 1, 64, 64), (256, 3, 64, 64)),
            "cuda": ((16384, 1, 64, 64), (1024, 1, 64, 64), (64, 1, 64, 64), (1024, 3, 128, 128)),
        },
        dtypes=("fp32", "bf16"),
        outputs=("nll",),
        setup=partial(setup, binary="bits" in kinds),
        formula=eager,
        contenders=partial(contenders, eager=eager, nll=nll, kinds=kinds),
        cost={
            "forward": cost,
            # The forward pass reads everything that the gradient needs, so only the gradient has to be written.
            "backward": Cost(reads=0, writes=1, transcendentals=0, arithmetic=0, integer=0),
        },
    )


# exp, log1p and a division; −x t + max(x, 0) + log1p: 3, sigmoid − t: 2, and 1 to add it up.
_BERNOULLI = Cost(reads=1, writes=0, transcendentals=3, arithmetic=6, integer=0, target_bytes=1)
# (x − t) / s: 2, ½d² + c: 2, the gradient: 1, and 1 to add it up.
_DENSITY = Cost(reads=1, writes=0, transcendentals=0, arithmetic=6, integer=0, target_bytes=1)
_BINARY, _GREY = ("uint8", "bool", "bits", "float"), ("uint8", "float")

BERNOULLI = _op("bernoulli_nll", bernoulli_nll, eager_bernoulli, _BINARY, _BERNOULLI)
GAUSSIAN = _op("gaussian_nll", partial(gaussian_nll, scale=_SCALE), eager_gaussian, _GREY, _DENSITY)
LAPLACE = _op("laplace_nll", partial(laplace_nll, scale=_SCALE), eager_laplace, _GREY, _DENSITY)

"""The description of an op that a benchmark needs. The same entry serves the measurements of parity, speed and memory."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from math import prod
from operator import add
from typing import Literal

import torch
from torch import Tensor

Direction = Literal["forward", "backward", "forward+backward"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "forward+backward")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}

Shape = tuple[int, ...]
Outputs = tuple[Tensor, ...]
# (the problem's inputs, its noise or None to draw new noise) -> outputs
Forward = Callable[[tuple[Tensor, ...], Tensor | None], Outputs]

_ENTRIES = {
    "latent": ("betavae_fast.bench.latent", "OP"),
    "bernoulli_nll": ("betavae_fast.bench.likelihood", "BERNOULLI"),
    "gaussian_nll": ("betavae_fast.bench.likelihood", "GAUSSIAN"),
    "laplace_nll": ("betavae_fast.bench.likelihood", "LAPLACE"),
    "log_densities": ("betavae_fast.bench.log_densities", "OP"),
}
# Ops in more shapes, and as a layer uses them. `make gpu` leaves them out to spend its time on the kernels.
_USES = {
    "latent_scaling": ("betavae_fast.bench.latent", "SCALING"),
    "spatial": ("betavae_fast.bench.spatial", "CONTIGUOUS"),
    "spatial_channels_last": ("betavae_fast.bench.spatial", "CHANNELS_LAST"),
}


@dataclass(frozen=True)
class Problem:
    """The numbers of one (shape, dtype, device) of an op, made once and given to every contender."""

    inputs: tuple[Tensor, ...]
    output_grads: tuple[Tensor, ...]
    noise: Tensor | None

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return tuple(x for x in self.inputs if x.requires_grad)

    def grads_like(self, outputs: Outputs) -> tuple[Tensor, ...]:
        """The gradients, in the dtypes of ``outputs``."""
        return tuple(g.to(o.dtype) for g, o in zip(self.output_grads, outputs, strict=True))


@dataclass(frozen=True)
class Cost:
    """The least work that any implementation does for one element. Work that is done once for the batch is left out.

    Args:
        reads, writes: number of tensors of the problem's shape and dtype that are read or written once.
        transcendentals: number of exp, log, sin and cos.
        arithmetic: number of other floating-point operations; a fused multiply-add counts once.
        integer: number of operations on 32-bit words.
        target_bytes: bytes of the target, read once, in the smallest usual dtype.
        pair_exponentials: number of exp for each pair of rows, and as many again for each channel of a pair.
        pair_arithmetic: number of floating-point operations for each channel of a pair of rows.
    """

    reads: int
    writes: int
    transcendentals: float
    arithmetic: float
    integer: float
    target_bytes: int = 0
    pair_exponentials: float = 0
    pair_arithmetic: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(add, astuple(self), astuple(other)))

    def operations(self, shape: Shape) -> tuple[int, int, int]:
        """The total numbers of (transcendental, arithmetic, integer) operations."""
        elements, batch = prod(shape), shape[0]
        exponentials = self.pair_exponentials * (batch * elements + batch * batch)
        return (
            round(self.transcendentals * elements + exponentials),
            round(self.arithmetic * elements + self.pair_arithmetic * batch * elements),
            round(self.integer * elements),
        )

    def bytes(self, shape: Shape, dtype: torch.dtype) -> int:
        return ((self.reads + self.writes) * dtype.itemsize + self.target_bytes) * prod(shape)


@dataclass(frozen=True)
class Contender:
    """One way to compute the op.

    Args:
        build: makes the callable; called once for each problem.
        ours: True if it must keep the package's error budget, that of float32 arithmetic for an input of any dtype.
        missing: reason why it cannot run here, or "".
        max_elements: the largest problem, by the op's ``size``, that is worth its time and memory.
        on_request: True if it takes part only when asked for by name.
    """

    name: str
    build: Callable[[], Forward]
    ours: bool = False
    missing: str = ""
    max_elements: int | None = None
    on_request: bool = False


@dataclass(frozen=True)
class Op:
    """A benchmark's entry.

    Args:
        shapes: the shapes to measure, by device type, the most informative first.
        setup: (shape, dtype, device, seed) -> Problem.
        formula: the textbook formula in plain torch, in the dtype of its inputs; in float64 it is the truth.
        contenders: device type -> contenders. One is called "eager"; the names of torch.compile's begin with "compile".
        cost: the costs of "forward" and "backward".
        recover_noise: (inputs, outputs), both float64 -> the standard normal noise that a contender drew
            itself; None for an op without noise.
        size: shape -> size of the problem: its number of elements, or more if contenders keep more than those.
        unfit: shape -> reason why the op cannot have this shape, or "".
    """

    name: str
    shapes: Mapping[str, tuple[Shape, ...]]
    dtypes: tuple[str, ...]
    outputs: tuple[str, ...]
    setup: Callable[[Shape, torch.dtype, torch.device, int], Problem]
    formula: Forward
    contenders: Callable[[str], tuple[Contender, ...]]
    cost: Mapping[str, Cost]
    recover_noise: Callable[[tuple[Tensor, ...], Outputs], Tensor] | None = None
    size: Callable[[Shape], int] = prod
    unfit: Callable[[Shape], str] = lambda shape: ""

    def cost_of(self, direction: Direction) -> Cost:
        if direction == "forward+backward":
            return self.cost["forward"] + self.cost["backward"]
        return self.cost[direction]


def parse_shape(text: str) -> Shape:
    """Parse ``65536x128`` into (65536, 128); return () for text of another form."""
    return tuple(map(int, text.split("x"))) if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", text) else ()


def op_names() -> tuple[str, ...]:
    """The names of the ops that have kernels of their own."""
    return tuple(_ENTRIES)


def entry_names() -> tuple[str, ...]:
    """The names of all entries that can be measured."""
    return (*_ENTRIES, *_USES)


def get(name: str) -> Op:
    """The entry of an op."""
    module, entry = (_ENTRIES | _USES)[name]
    op: Op = getattr(importlib.import_module(module), entry)
    return op

"""Times the eager backend against hand-written torch code: ``python -m benchmarks.fallback``.

``auto`` chooses the eager backend if no kernels were built. Forward and backward of each function are checked for parity,
then timed in interleaved rounds with plain torch, at each number of threads. Plain torch converts the target as its user
would. Writes fallback/MACHINE.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import log, pi
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.arguments import positive
from benchmarks.pages import markdown
from benchmarks.study import Run, Study
from betavae_fast.bench import latent, likelihood, log_densities, parity
from betavae_fast.bench.registry import Contender, Forward, Op, Outputs, Problem, Shape
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.timing import BRIEF, QUICK, CpuClock, Task, Timing, interleave
from betavae_fast.bench.units import seconds
from betavae_fast.functional import (
    bernoulli_nll,
    gaussian_kl,
    gaussian_nll,
    kl_decomposition,
    laplace_nll,
    reparameterize_kl,
)

BACKEND: Any = "eager"
# The largest accepted ratio to plain torch. Noise allows more, because ours has the same bits on every device.
LIMIT, LIMIT_WITH_NOISE = 1.2, 3.0
LATENTS: tuple[Shape, ...] = ((65536, 128), (65536, 10), (4096, 10), (64, 10))
IMAGES: tuple[Shape, ...] = ((256, 3, 64, 64), (64, 1, 64, 64))
BATCHES: tuple[Shape, ...] = ((1024, 10), (256, 10), (64, 10))


@dataclass(frozen=True)
class Case:
    """A function and the plain code that it replaces.

    Args:
        op: makes the problems, and holds the formula by which parity is checked.
        limit: the largest accepted ratio.
    """

    name: str
    op: Op
    plain: Forward
    ours: Forward
    shapes: tuple[Shape, ...]
    limit: float = LIMIT


@dataclass(frozen=True)
class Ratio:
    """Seconds of a forward and a backward pass."""

    function: str
    shape: Shape
    threads: int
    plain: Timing
    fallback: Timing
    limit: float

    @property
    def ratio(self) -> float:
        """The fallback's median over plain torch's."""
        return self.fallback.p50 / self.plain.p50


@dataclass(frozen=True)
class Fallback(Provenance):
    backend: str
    ratios: tuple[Ratio, ...]


def _plain_kl(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
    mu, logvar = inputs
    return ((-0.5 * (1 + logvar - mu**2 - logvar.exp())).mean(0),)


def _kl_problem(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int) -> Problem:
    problem = latent.setup(shape, dtype, device, seed)
    return replace(problem, output_grads=problem.output_grads[1:], noise=None)


# The position of the target among a likelihood problem's inputs, and its conversion.
_TARGETS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "float": (1, lambda t: t),
    "uint8": (2, lambda t: t.float() / 255),
    "bool": (3, lambda t: t.float()),
}


def _plain_bernoulli(x: Tensor, t: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(x, t, reduction="sum") / len(x)


def _plain_gaussian(x: Tensor, t: Tensor) -> Tensor:
    return ((x - t) ** 2).sum() / 2 / len(x) + x[0].numel() * 0.5 * log(2 * pi)


def _plain_laplace(x: Tensor, t: Tensor) -> Tensor:
    return (x - t).abs().sum() / len(x) + x[0].numel() * log(2)


def _likelihoods() -> Iterator[Case]:
    nlls: tuple[tuple[str, Callable[..., Tensor], Callable[..., Tensor]], ...] = (
        ("bernoulli_nll", bernoulli_nll, _plain_bernoulli),
        ("gaussian_nll", gaussian_nll, _plain_gaussian),
        ("laplace_nll", laplace_nll, _plain_laplace),
    )
    for (name, nll, plain), kind in product(nlls, _TARGETS):
        formula = partial(_with_target, "float", plain, True)
        op = replace(likelihood.BERNOULLI, formula=formula, setup=partial(likelihood.setup, binary=True))
        ours = partial(_with_target, kind, partial(nll, backend=BACKEND), False)
        yield Case(f"{name} {kind}", op, partial(_with_target, kind, plain, True), ours, IMAGES)


def _with_target(
    kind: str,
    nll: Callable[[Tensor, Tensor], Tensor],
    convert: bool,
    inputs: tuple[Tensor, ...],
    noise: Tensor | None,
) -> Outputs:
    index, conversion = _TARGETS[kind]
    return (nll(inputs[0], conversion(inputs[index]) if convert else inputs[index]),)


CASES: tuple[Case, ...] = (
    Case(
        "reparameterize_kl",
        latent.OP,
        latent.eager,
        lambda inputs, noise: reparameterize_kl(*inputs, noise=noise, backend=BACKEND),
        LATENTS,
        LIMIT_WITH_NOISE,
    ),
    Case(
        "gaussian_kl",
        replace(latent.OP, outputs=("kl",), setup=_kl_problem, formula=_plain_kl, recover_noise=None),
        _plain_kl,
        lambda inputs, noise: (gaussian_kl(*inputs, backend=BACKEND),),
        LATENTS,
    ),
    *_likelihoods(),
    Case(
        "kl_decomposition",
        log_densities.OP,
        log_densities.eager,
        lambda inputs, noise: (
            torch.stack(kl_decomposition(*inputs, dataset_size=log_densities.DATASET_SIZE, backend=BACKEND)),
        ),
        BATCHES,
    ),
)


def compare(case: Case, shape: Shape, threads: Sequence[int], quick: bool) -> Iterator[Ratio]:
    """Time the function and the plain code. Raises: ParityError if they do not compute the same."""
    problem = case.op.setup(shape, torch.float32, torch.device("cpu"), 0)
    parity.check(
        case.op,
        problem,
        {
            Contender("plain", lambda: case.plain): case.plain,
            Contender("fallback", lambda: case.ours, ours=True): case.ours,
        },
    )

    def step(forward: Forward) -> Callable[[object], object]:
        return lambda _: torch.autograd.grad(
            tuple(forward(problem.inputs, None)), problem.leaves, problem.output_grads
        )

    tasks = (Task("plain", step(case.plain)), Task("fallback", step(case.ours)))
    for number in threads:
        torch.set_num_threads(number)
        found = interleave(tasks, CpuClock(), QUICK if quick else BRIEF)
        yield Ratio(case.name, shape, number, found["plain"], found["fallback"], case.limit)


def show(results: Fallback) -> str:
    rows = (
        (
            *(r.function, str(r.shape), str(r.threads), seconds(r.plain.p50), seconds(r.fallback.p50)),
            f"{r.ratio:.2f}" + ("" if r.ratio <= r.limit else f" > {r.limit:g}"),
        )
        for r in results.ratios
    )
    return markdown(("function", "shape", "threads:", "plain:", "fallback:", "ratio:"), rows)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument(
        "--functions", nargs="+", metavar="NAME", help="only functions whose names begin so; writes nothing"
    )
    parser.add_argument("--quick", action="store_true", help="take few samples and write nothing")


def measure(run: Run) -> Iterator[Fallback]:
    args = run.args
    chosen = [c for c in CASES if not args.functions or c.name.startswith(tuple(args.functions))]
    if not chosen:
        raise argparse.ArgumentTypeError(
            f"argument --functions: there are {', '.join(c.name for c in CASES)}"
        )
    with run.console.status("measuring"):
        ratios = tuple(
            ratio
            for case in chosen
            for shape in case.shapes
            for ratio in compare(case, shape, args.threads, args.quick)
        )
    yield Fallback(**run.origin, backend=BACKEND, ratios=ratios)


STUDY = Study(
    "benchmarks.fallback",
    __doc__,
    Fallback,
    "fallback/MACHINE.json",
    measure,
    show,
    options,
    threads=False,
    partial=lambda args: bool(args.functions or args.quick),
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

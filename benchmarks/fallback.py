"""Times the eager backend against hand-written torch code: ``python -m benchmarks.fallback``.

``auto`` chooses the eager backend if no kernels were built. Forward and backward of each function are checked for parity,
then timed in interleaved rounds with plain torch, at each number of threads. Plain torch converts the target as its user
would. Writes fallback/MACHINE.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import log, pi
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks import RESULTS
from benchmarks.arguments import command, positive, writable
from betavae_fast.bench import latent, likelihood, log_densities, machine, parity
from betavae_fast.bench.headline import seconds
from betavae_fast.bench.registry import Contender, Forward, Op, Outputs, Problem, Shape
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.timing import BRIEF, QUICK, CpuClock, Task, Timing, interleave
from betavae_fast.files import write_json
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
    """Seconds of a forward and a backward pass.

    Args:
        ratio: the fallback's median over plain torch's.
    """

    function: str
    shape: Shape
    threads: int
    plain: Timing
    fallback: Timing
    ratio: float
    limit: float


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
    for name, ours, plain in (
        ("bernoulli_nll", bernoulli_nll, _plain_bernoulli),
        ("gaussian_nll", gaussian_nll, _plain_gaussian),
        ("laplace_nll", laplace_nll, _plain_laplace),
    ):
        for kind in _TARGETS:
            forward = partial(_with_target, kind, plain, True)
            op = replace(
                likelihood.BERNOULLI,
                formula=partial(_with_target, "float", plain, True),
                setup=partial(likelihood.setup, binary=True),
            )
            yield Case(
                f"{name} {kind}",
                op,
                forward,
                partial(_with_target, kind, partial(ours, backend=BACKEND), False),
                IMAGES,
            )


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


def measure(case: Case, shape: Shape, threads: Sequence[int], quick: bool) -> Iterator[Ratio]:
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
        plain, fallback = found["plain"], found["fallback"]
        yield Ratio(case.name, shape, number, plain, fallback, fallback.p50 / plain.p50, case.limit)


def show(results: Fallback, console: Console) -> None:
    table = Table("function", "shape", "threads", "plain", "fallback", "ratio", box=SIMPLE)
    for column in table.columns:
        column.no_wrap = True
    for r in results.ratios:
        table.add_row(
            r.function,
            str(r.shape),
            str(r.threads),
            seconds(r.plain.p50),
            seconds(r.fallback.p50),
            f"{r.ratio:.2f}" + ("" if r.ratio <= r.limit else f" > {r.limit:g}"),
        )
    console.print(table)


def load(path: Path) -> Fallback:
    document = json.loads(path.read_text(encoding="utf-8"))
    ratios = tuple(
        Ratio(
            **{
                **entry,
                "shape": tuple(entry["shape"]),
                "plain": Timing(**entry["plain"]),
                "fallback": Timing(**entry["fallback"]),
            }
        )
        for entry in document.pop("ratios")
    )
    return Fallback(ratios=ratios, **document)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fallback",
        description=(__doc__ or "").splitlines()[0],
        allow_abbrev=False,
    )
    parser.add_argument("--threads", type=positive, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument(
        "--functions", nargs="+", metavar="NAME", help="only functions whose names begin so; writes nothing"
    )
    parser.add_argument("--quick", action="store_true", help="take few samples and write nothing")
    parser.add_argument("--out", type=writable, help="default: benchmarks/results/fallback/MACHINE.json")
    args = parser.parse_args(arguments)
    console, device = Console(), torch.device("cpu")
    chosen = [c for c in CASES if not args.functions or c.name.startswith(tuple(args.functions))]
    if not chosen:
        parser.error(f"argument --functions: there are {', '.join(c.name for c in CASES)}")
    provenance = machine.provenance(device)
    with console.status("measuring"):
        ratios = tuple(
            ratio
            for case in chosen
            for shape in case.shapes
            for ratio in measure(case, shape, args.threads, args.quick)
        )
    results = Fallback(
        command=command("benchmarks.fallback", arguments), **provenance, backend=BACKEND, ratios=ratios
    )
    show(results, console)
    if args.out or not (args.functions or args.quick):
        out = args.out or RESULTS / "fallback" / f"{machine.kind(device)}.json"
        write_json(out, results)
        console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

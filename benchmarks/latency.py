"""Splits the time of a small batch into its parts: ``python -m benchmarks.latency --threads 2``.

Forward and backward of the latent op are called at four depths: the public function, its autograd.Function, its two
operators, and the operators on an empty batch, where only torch's calls and the allocation of results take time. The
parts are the differences of the medians in one interleaved run. Writes latency/MACHINE.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.arguments import available, command, positive, writable
from betavae_fast.bench import machine
from betavae_fast.bench.headline import seconds
from betavae_fast.bench.latent import setup
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.timing import CpuClock, CudaClock, Effort, Task, Timing, interleave
from betavae_fast.files import write_json
from betavae_fast.functional import reparameterize_kl
from betavae_fast.functional.checks import choose_backend
from betavae_fast.noise import make_rng
from betavae_fast.ops.latent import BACKWARD, FORWARD, LatentForwardFunction
from betavae_fast.ops.reductions import REDUCTIONS

SHAPE = (64, 10)
PUBLIC, FUNCTION, OPERATORS, EMPTY = "public function", "autograd.Function", "operators", "operators, no rows"


@dataclass(frozen=True)
class Latency(Provenance):
    """Seconds of a forward and a backward pass at (64, 10), float32, and the parts they consist of.

    Args:
        calls: the times of the calls, by the layer that is called.
        parts: seconds of each part; they add up to the median of the public function.
    """

    backend: str
    calls: dict[str, Timing]
    parts: dict[str, float]


def tasks(device: torch.device) -> tuple[str, tuple[Task, ...]]:
    """The backend, and the tasks from the outermost layer to the innermost."""
    problem = setup(SHAPE, torch.float32, device, 0)
    mu, logvar = problem.leaves
    grads = problem.output_grads
    backend = choose_backend("latency", mu, "auto")
    rng = make_rng(device, seed=0)
    settings = (0, float("-inf"), float("inf"), REDUCTIONS["dim"])
    forward, backward = FORWARD[backend], BACKWARD[backend]

    def public(_: object) -> object:
        return torch.autograd.grad(tuple(reparameterize_kl(mu, logvar)), (mu, logvar), grads)

    def function(_: object) -> object:
        outputs = LatentForwardFunction.apply(mu, logvar, rng, None, settings, backend)
        return torch.autograd.grad(outputs, (mu, logvar), grads)

    plain, whole = (mu.detach(), logvar.detach()), tuple(g.detach() for g in grads)
    no_rows = tuple(x[:0] for x in plain), (whole[0][:0], whole[1])

    def operators(inputs: Sequence[torch.Tensor], upstream: Sequence[torch.Tensor]) -> object:
        forward(*inputs, rng, None, *settings)
        return backward(*upstream, *inputs, rng, None, *settings, True, True)

    return backend, (
        Task(PUBLIC, public),
        Task(FUNCTION, function),
        Task(OPERATORS, lambda _: operators(plain, whole)),
        Task(EMPTY, lambda _: operators(*no_rows)),
    )


def parts(calls: dict[str, Timing]) -> dict[str, float]:
    """The seconds that each layer adds to the layer inside it."""
    return {
        "checks and the draw of a seed": calls[PUBLIC].p50 - calls[FUNCTION].p50,
        "autograd's Function and engine": calls[FUNCTION].p50 - calls[OPERATORS].p50,
        "kernels": calls[OPERATORS].p50 - calls[EMPTY].p50,
        "dispatch and allocation": calls[EMPTY].p50,
    }


def show(results: Latency, console: Console) -> None:
    table = Table("forward and backward", "p50", "p20", "p80")
    for name, timing in results.calls.items():
        table.add_row(name, *map(seconds, (timing.p50, timing.p20, timing.p80)))
    console.print(table)
    for part, time in results.parts.items():
        console.print(f"{part}: {1e6 * time:.1f} µs", highlight=False)


def load(path: Path) -> Latency:
    document = json.loads(path.read_text(encoding="utf-8"))
    calls = {name: Timing(**entry) for name, entry in document.pop("calls").items()}
    return Latency(calls=calls, **document)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--device", type=available, choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--out", type=writable, help="default: benchmarks/results/latency/MACHINE.json")
    args = parser.parse_args(arguments)
    console = Console()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    backend, chosen = tasks(device)
    clock = CpuClock() if args.device == "cpu" else CudaClock(flush=False)
    calls = interleave(chosen, clock, Effort())
    results = Latency(
        command=command("benchmarks.latency", arguments),
        **machine.provenance(device),
        backend=backend,
        calls=calls,
        parts=parts(calls),
    )
    show(results, console)
    out = args.out or RESULTS / "latency" / f"{machine.kind(device)}.json"
    write_json(out, results)
    console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

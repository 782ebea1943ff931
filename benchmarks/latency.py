"""Splits the time of a small batch into its parts: ``python -m benchmarks.latency --threads 2``.

Forward and backward of the latent op are called at four depths: the public function, its autograd.Function, its two
operators, and the operators on an empty batch, where only torch's calls and the allocation of results take time. The
parts are the differences of the medians in one interleaved run. Writes latency/MACHINE.json.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks.pages import markdown
from benchmarks.study import Run, Study
from betavae_fast.bench.latent import setup
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.timing import Effort, Task, Timing, clock_of, interleave
from betavae_fast.bench.units import seconds
from betavae_fast.functional import reparameterize_kl
from betavae_fast.functional.checks import choose_backend
from betavae_fast.noise import make_rng
from betavae_fast.ops.latent import BACKWARD, FORWARD, LatentForwardFunction
from betavae_fast.ops.reductions import REDUCTIONS

SHAPE = (64, 10)
PUBLIC, FUNCTION, OPERATORS, EMPTY = "public function", "autograd.Function", "operators", "operators, no rows"


@dataclass(frozen=True)
class Latency(Provenance):
    """Seconds of a forward and a backward pass at (64, 10), float32, by the layer that is called."""

    backend: str
    calls: dict[str, Timing]

    @property
    def parts(self) -> dict[str, float]:
        """The seconds that each layer adds to the layer inside it. They add up to the median of the public function."""
        outer, function, operators, empty = (
            self.calls[name].p50 for name in (PUBLIC, FUNCTION, OPERATORS, EMPTY)
        )
        return {
            "checks and the draw of a seed": outer - function,
            "autograd's Function and engine": function - operators,
            "kernels": operators - empty,
            "dispatch and allocation": empty,
        }


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


def show(results: Latency) -> str:
    whole = results.calls[PUBLIC].p50
    parts = ((name, f"{1e6 * time:.1f} µs", f"{time / whole:.0%}") for name, time in results.parts.items())
    return (
        f"Forward and backward of the latent op at {SHAPE} fp32, {results.backend}: {seconds(whole)}.\n\n"
        + markdown(("part", "time:", "share:"), parts)
    )


def measure(run: Run) -> Iterator[Latency]:
    backend, chosen = tasks(run.device)
    calls = interleave(chosen, clock_of(run.device), Effort())
    yield Latency(**run.origin, backend=backend, calls=calls)


STUDY = Study("benchmarks.latency", __doc__, Latency, "latency/MACHINE.json", measure, show, device="cpu")
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

"""Measures the growth of the log densities' time and memory with the batch: ``python -m benchmarks.scaling``.

Forward and backward run at 10 channels. Each batch size of each contender gets a process of its own, so that nothing else
raises its peak memory. Writes scaling-MACHINE.json and scaling-MACHINE.png into
benchmarks/results/log-densities/.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from matplotlib.figure import Figure

from benchmarks.arguments import at_least
from benchmarks.pages import markdown
from benchmarks.study import Run, Study, StudyError, tidy
from betavae_fast.bench.log_densities import contenders, setup
from betavae_fast.bench.registry import Problem
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.units import size

DIM = 10
# Eager needs 1 GB at 2,048 rows, and 16 GB at 8,192.
BATCHES = {
    "eager": (256, 512, 1024, 2048),
    "cpp": (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072),
}
_LABELS = {"eager": "eager PyTorch", "cpp": "betavae_fast, C++"}
_COLOURS = {"eager": "#e07b00", "cpp": "#1f6fb4"}
# Shorter steps are repeated, and the fastest counts, because disturbances can only slow a process down.
_SECONDS, _MOST_REPEATS = 2.0, 50


@dataclass(frozen=True)
class Measurement:
    """A forward and a backward pass; ``extra_bytes`` is their peak memory above the inputs, as the system counts it."""

    contender: str
    batch_size: int
    seconds: float
    repeats: int
    extra_bytes: int


@dataclass(frozen=True)
class Scaling(Provenance):
    channels: int
    measurements: tuple[Measurement, ...]


def time_step(name: str, batch_size: int, threads: int) -> Measurement:
    torch.set_num_threads(threads)
    forward = next(c for c in contenders("cpu") if c.name == name).build()
    unit = 1 if sys.platform == "darwin" else 1024

    def step(problem: Problem) -> float:
        start = time.perf_counter()
        outputs = forward(problem.inputs, None)
        torch.autograd.grad(outputs, problem.leaves, problem.output_grads)
        return time.perf_counter() - start

    step(setup((64, DIM), torch.float32, torch.device("cpu"), 0))
    problem = setup((batch_size, DIM), torch.float32, torch.device("cpu"), 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = [step(problem)]
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    while sum(times) < _SECONDS and len(times) < _MOST_REPEATS:
        times.append(step(problem))
    return Measurement(name, batch_size, min(times), len(times), extra)


def draw(results: Scaling) -> Figure:
    """Draw time and memory by batch size, with the slopes B² and B."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    measurements = results.measurements
    figure.suptitle(f"Log densities, forward and backward, {DIM} channels")
    for axis, name, power, unit in zip(
        figure.subplots(1, 2),
        ("seconds", "extra_bytes"),
        (2, 1),
        ("seconds", "bytes beside the inputs"),
        strict=True,
    ):
        for contender, label in _LABELS.items():
            chosen = [m for m in measurements if m.contender == contender]
            batches = [m.batch_size for m in chosen]
            axis.plot(
                batches, [getattr(m, name) for m in chosen], "o-", color=_COLOURS[contender], label=label
            )
        last = max((m for m in measurements if m.contender == "cpp"), key=lambda m: m.batch_size)
        sizes = sorted({m.batch_size for m in measurements if m.contender == "cpp"})
        slope = [getattr(last, name) * (batch / last.batch_size) ** power for batch in sizes]
        axis.plot(sizes, slope, "--", color="#404040", linewidth=0.8, label="∝ B²" if power == 2 else "∝ B")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("batch size B")
        axis.set_ylabel(unit)
        tidy(axis)
        axis.legend(frameon=False)
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    least, most = min(BATCHES["cpp"]), max(BATCHES["cpp"])
    parser.add_argument("--max-batch", type=at_least(least), default=most, help="leave out larger batches")


def measure(run: Run) -> Iterator[Scaling]:
    if absent := {c.name: c.missing for c in contenders("cpu")}["cpp"]:
        raise StudyError(f"the C++ backend is missing: {absent}")
    measurements: tuple[Measurement, ...] = ()
    for contender, batches in BATCHES.items():
        for batch in batches:
            if batch <= run.args.max_batch:
                with run.console.status(f"{contender} {batch}"), get_context("spawn").Pool(1) as pool:
                    found = pool.apply(time_step, (contender, batch, torch.get_num_threads()))
                measurements = (*measurements, found)
    yield Scaling(**run.origin, channels=DIM, measurements=measurements)


def show(results: Scaling) -> str:
    rows = (
        (m.contender, f"{m.batch_size:,}", f"{1e3 * m.seconds:,.2f} ms", size(m.extra_bytes))
        for m in results.measurements
    )
    return markdown(("contender", "batch:", "time:", "extra memory:"), rows)


STUDY = Study(
    "benchmarks.scaling",
    __doc__,
    Scaling,
    "log-densities/scaling-MACHINE.json",
    measure,
    show,
    options,
    partial=lambda args: args.max_batch < max(BATCHES["cpp"]),
    draw=lambda results: {f"scaling-{results.machine['kind']}": draw(results)},
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

"""A whole training step, ours beside the same network trained the way people write it and a peer's model.

    python -m benchmarks.step --threads 2

Each contender lives in a process of its own, because one of the things that differ is how a process keeps its memory.
First they all take the same 8 steps (same weights, batches and noise), and nothing is reported if their losses differ.
Then they take turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.arguments import at_least, available, command, positive, writable
from benchmarks.trainers import IMAGES, TRAINERS, Trainer
from betavae_fast.bench import machine
from betavae_fast.bench.headline import seconds, times
from betavae_fast.bench.results import Provenance, write_json

NETWORK = f"burgess, 1×64×64, 10 channels, Bernoulli, β = 4, float32, {IMAGES:,} images in memory"
BATCH_SIZES = {"cpu": (64, 1024), "cuda": (64, 512, 4096, 16384)}
# Later, rounding differences grow tenfold every few steps while the loss falls fast: 1e-3 by step 24 at batch 256.
PARITY_STEPS = 8
# Of the losses, relative. Compiled convolutions and logarithms of rounded probabilities drift sooner, bfloat16 at once.
TOLERANCE = 1e-4
OTHER_TOLERANCES = {"compile": 1e-3, "pythae": 1e-3, "ours, bf16": 3e-2}
# An OpenMP's threads wait actively for more work, in the way of the next process.
_SETTLE_SECONDS = 0.3


@dataclass(frozen=True)
class StepTime:
    """One contender at one batch size; seconds a step.

    Args:
        loss_difference: from eager's, the largest of the parity steps, relative.
        shares: of a profiled step's time on the CPU, by what it was spent on; of ours only.
    """

    contender: str
    batch_size: int
    p20: float
    p50: float
    p80: float
    samples: int
    images_per_second: float
    speedup_over_eager: float
    loss_difference: float
    shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StepResults(Provenance):
    network: str
    measurements: tuple[StepTime, ...]
    absent: dict[str, str]


def headline(time: StepTime) -> str:
    """``step (1024 images) ours: 700 ms, 1,460 images/s, 3.1× eager``"""
    return (
        f"step ({time.batch_size} images) {time.contender}: {seconds(time.p50)}, "
        f"{time.images_per_second:,.0f} images/s, {times(time.speedup_over_eager)} eager"
    )


def measure(batch_size: int, names: Sequence[str], device: str, threads: int, samples: int) -> list[StepTime]:
    """Time the contenders in turn; RuntimeError if the losses of their parity steps differ."""
    context = get_context("spawn")
    workers: dict[str, Connection] = {}
    processes = []
    try:
        for name in names:
            workers[name], theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, name, batch_size, device, threads), daemon=True
            )
            process.start()
            processes.append(process)
        differences = _check(batch_size, workers)
        taken: dict[str, list[float]] = {name: [] for name in names}
        for number in range(samples):
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                sleep(_SETTLE_SECONDS)
                taken[name].append(_ask(workers[name], "time"))
        # A graph's replay does not tell its operators apart.
        shares = _ask(workers["ours"], "shares") if "ours" in workers and device == "cpu" else {}
    finally:
        for process in processes:
            process.terminate()
    eager = statistics.median(taken["eager"])
    return [
        _step_time(name, batch_size, found, eager, differences[name], shares if name == "ours" else {})
        for name, found in taken.items()
    ]


def _check(batch_size: int, workers: dict[str, Connection]) -> dict[str, float]:
    """By how much each contender's losses differ from eager's."""
    losses = {name: _ask(worker, "losses", PARITY_STEPS) for name, worker in workers.items()}
    differences = {name: _largest_difference(found, losses["eager"]) for name, found in losses.items()}
    for name, difference in differences.items():
        allowed = OTHER_TOLERANCES.get(name, TOLERANCE)
        if not difference <= allowed:
            raise RuntimeError(
                f"batch {batch_size}: {name}'s losses differ from eager's by {difference:.1e}, "
                f"more than {allowed:.0e}"
            )
    return differences


def _step_time(
    name: str, batch_size: int, taken: list[float], eager: float, difference: float, shares: dict[str, float]
) -> StepTime:
    deciles = statistics.quantiles(taken, n=10, method="inclusive")
    p50 = statistics.median(taken)
    return StepTime(
        contender=name,
        batch_size=batch_size,
        p20=deciles[1],
        p50=p50,
        p80=deciles[7],
        samples=len(taken),
        images_per_second=batch_size / p50,
        speedup_over_eager=eager / p50,
        loss_difference=difference,
        shares=shares,
    )


def _largest_difference(found: list[float], expected: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def _ask(worker: Connection, *question: Any) -> Any:
    worker.send(question)
    answer = worker.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _work(connection: Connection, name: str, batch_size: int, device: str, threads: int) -> None:
    """A contender's process: answers until it is ended."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        trainer = TRAINERS[device][name](batch_size, device)
        answers: dict[str, Callable[..., Any]] = {
            "losses": lambda steps: [trainer.loss_of_step(step) for step in range(steps)],
            "time": lambda: _time(trainer, _synchronize(device)),
            "shares": lambda: _shares(trainer),
        }
        while True:
            kind, *arguments = connection.recv()
            connection.send(answers[kind](*arguments))
    except Exception as error:
        connection.send(RuntimeError(f"{name}: {type(error).__name__}: {error}"))


def _synchronize(device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def _time(trainer: Trainer, synchronize: Callable[[], None]) -> float:
    """Seconds a step, of as many as take half a second; the first wakes the threads."""

    def run(steps: int) -> float:
        synchronize()
        start = perf_counter()
        for _ in range(steps):
            trainer.step()
        synchronize()
        return (perf_counter() - start) / steps

    return run(max(1, round(0.5 / run(1))))


# Operators by what they are for; what is in none of these is "other".
_PURPOSES = {
    "convolutions": ("convolution", "ConvTranspose"),
    "linear layers": ("aten::mm", "aten::addmm"),
    "activations": ("clamp_min", "threshold_backward"),
    "likelihood": ("betavae_fast::likelihood",),
    "latent": ("betavae_fast::latent",),
    "optimizer": ("adam", "Adam"),
    "data": ("aten::index", "aten::gather"),
}


def _shares(trainer: Trainer) -> dict[str, float]:
    """The parts of a step's CPU time, as the profiler attributes it; they add up to one."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(3):
            trainer.step()
    spent = dict.fromkeys((*_PURPOSES, "other"), 0.0)
    for event in profile.key_averages():
        purpose = next((p for p, words in _PURPOSES.items() if any(w in event.key for w in words)), "other")
        spent[purpose] += event.self_cpu_time_total
    total = sum(spent.values())
    return {purpose: round(time / total, 4) for purpose, time in spent.items()}


def show(results: StepResults, console: Console) -> None:
    table = Table("contender", "images", "p50", "p20", "p80", "images/s", "eager", "losses differ by")
    for time in results.measurements:
        table.add_row(
            time.contender,
            str(time.batch_size),
            *map(seconds, (time.p50, time.p20, time.p80)),
            f"{time.images_per_second:,.0f}",
            times(time.speedup_over_eager),
            f"{time.loss_difference:.1e}",
        )
    console.print(table)
    for time in results.measurements:
        if time.shares:
            parts = ", ".join(f"{purpose} {share:.1%}" for purpose, share in time.shares.items())
            console.print(f"{headline(time)}; its time: {parts}", highlight=False, soft_wrap=True)
    for name, why in results.absent.items():
        console.print(f"[dim]without {name}: {why}[/]", highlight=False)


def load(path: Path) -> StepResults:
    document = json.loads(path.read_text(encoding="utf-8"))
    measurements = tuple(StepTime(**entry) for entry in document.pop("measurements"))
    return StepResults(measurements=measurements, **document)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--device", type=available, choices=TRAINERS, default="cpu")
    parser.add_argument(
        "--batch-sizes", type=positive, nargs="+", help="default: 64 1024; on a GPU 64 512 4096 16384"
    )
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--samples", type=at_least(2), default=11, help="of each contender")
    parser.add_argument("--contenders", nargs="+", help="fewer of them, beside eager")
    parser.add_argument("--out", type=writable, help="default: benchmarks/results/step/MACHINE.json")
    args = parser.parse_args(arguments)
    if unknown := set(args.contenders or ()) - TRAINERS[args.device].keys():
        there = ", ".join(TRAINERS[args.device])
        parser.error(f"--contenders: no {', '.join(sorted(unknown))} on {args.device}; there are {there}")
    console = Console()
    absent = {}
    if importlib.util.find_spec("pythae") is None:
        absent["pythae"] = "it is not installed"
    chosen = ("eager", *(args.contenders or TRAINERS[args.device]))
    names = [name for name in TRAINERS[args.device] if name in chosen and name not in absent]
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    measurements: list[StepTime] = []
    for batch_size in args.batch_sizes or BATCH_SIZES[args.device]:
        try:
            measurements += measure(batch_size, names, args.device, args.threads, args.samples)
        except RuntimeError as error:
            console.print(f"[bold red]No time is reported:[/] {error}", highlight=False)
            return 1
    results = StepResults(
        command=command("benchmarks.step", arguments),
        **machine.provenance(device),
        network=NETWORK,
        measurements=tuple(measurements),
        absent=absent,
    )
    show(results, console)
    out = args.out or RESULTS / "step" / f"{machine.kind(device)}.json"
    write_json(out, asdict(results))
    console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

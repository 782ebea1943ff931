"""Times training until the loss reaches a target: ``python -m benchmarks.time_to_loss --threads 2``.

The contenders are those of the training step. They train one after the other, each in a process of its own, with the same
initial weights, batches and noise. Writes time-to-loss/MACHINE.json.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from time import perf_counter

import torch

from benchmarks.pages import markdown
from benchmarks.step import NETWORK
from benchmarks.study import Run, Study, StudyError
from benchmarks.trainers import TRAINERS, absent
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.units import times

CONTENDERS = ("eager", "pythae", "ours")
BATCH_SIZE, TARGET, WINDOW, MOST_STEPS = 64, 150.0, 50, 4000


@dataclass(frozen=True)
class TimedRun:
    """The steps and seconds until the mean loss of ``WINDOW`` steps is at most the target, and this mean in nats."""

    contender: str
    steps: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class TimeToLoss(Provenance):
    network: str
    batch_size: int
    target: float
    runs: tuple[TimedRun, ...]
    absent: dict[str, str]


def train(contender: str, device: str, threads: int, target: float) -> TimedRun:
    """Train until the target is reached. Raises: StudyError if it is not reached in ``MOST_STEPS``."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    trainer = TRAINERS[device][contender](BATCH_SIZE, device)
    losses: deque[float] = deque(maxlen=WINDOW)
    start = perf_counter()
    for step in range(MOST_STEPS):
        losses.append(trainer.loss_of_step(step))
        mean = sum(losses) / len(losses)
        if len(losses) == WINDOW and mean <= target:
            return TimedRun(contender, step + 1, perf_counter() - start, mean)
    raise StudyError(f"{contender}: a loss of {mean:.1f} nats after {MOST_STEPS} steps, not {target}")


def options(parser: argparse.ArgumentParser) -> None:
    what = f"loss per image with β times the KL, nats; default: {TARGET:g}"
    parser.add_argument("--target", type=float, default=TARGET, help=what)


def measure(run: Run) -> Iterator[TimeToLoss]:
    missing, target = absent(), run.args.target
    runs = []
    for contender in CONTENDERS:
        if contender not in missing:
            with run.console.status(contender), get_context("spawn").Pool(1) as pool:
                runs.append(pool.apply(train, (contender, run.device.type, torch.get_num_threads(), target)))
    yield TimeToLoss(
        **run.origin,
        network=NETWORK,
        batch_size=BATCH_SIZE,
        target=target,
        runs=tuple(runs),
        absent=missing,
    )


def show(results: TimeToLoss) -> str:
    eager = next(run for run in results.runs if run.contender == "eager")
    rows = (
        (
            *(run.contender, f"{run.steps:,}", f"{run.seconds:.1f} s"),
            f"{run.steps * results.batch_size / run.seconds:,.0f}",
            times(eager.seconds / run.seconds),
        )
        for run in results.runs
    )
    return (
        f"{results.network}; until the mean loss of {WINDOW} steps is {results.target:g} nats. The weights, batches and "
        "noise are the same, but rounding differences grow, so that the number of steps depends on chance; images/s does "
        "not.\n\n" + markdown(("contender", "steps:", "time:", "images/s:", "eager:"), rows)
    )


STUDY = Study(
    "benchmarks.time_to_loss",
    __doc__,
    TimeToLoss,
    "time-to-loss/MACHINE.json",
    measure,
    show,
    options,
    device="cpu",
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

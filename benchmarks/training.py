"""Trains with the real command on this machine, measures its speed and checks its promises.

    python -m benchmarks.training --device cuda

Two runs are timed: 20,000 steps of 64 images, and 500 of 4096. Then four runs in float32 are started at once and not
timed. A run and its repetition must give the same weights, bit for bit, and so must a run that ended half-way and was
resumed. The same run on the CPU must give about the same loss. The file is written anew after each result.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch

from benchmarks import ROOT
from benchmarks.arguments import positive
from benchmarks.pages import markdown
from benchmarks.processes import started
from benchmarks.study import Run, Study
from betavae_fast.bench.results import Provenance
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.log import read_log
from betavae_fast.training.run_folder import RunFolder

SPEEDS = ((64, 20_000), (4096, 500))  # batch size, steps
SHORT_STEPS, LOG_EVERY = 400, 50
# Relative error of the loss of a logged interval. Batches and noise are the same, but rounding differences grow with the
# steps.
CPU_TOLERANCE = 0.1


@dataclass(frozen=True)
class Speed:
    """A timed run; ``images_per_second`` is the median of the logged intervals without the first."""

    batch_size: int
    steps: int
    images_per_second: float
    first_loss: float
    last_loss: float


@dataclass(frozen=True)
class Training(Provenance):
    """A result file; fields that were not reached are None.

    Args:
        same_again: True if the same command gave the same weights again.
        same_resumed: True if a run that was stopped half-way and resumed gave the weights of the uninterrupted run.
        loss, loss_on_cpu: number of steps -> loss in nats.
        failed: the runs that failed.
    """

    speeds: tuple[Speed, ...] = ()
    same_again: bool | None = None
    same_resumed: bool | None = None
    loss: dict[int, float] = field(default_factory=dict)
    loss_on_cpu: dict[int, float] = field(default_factory=dict)
    failed: tuple[str, ...] = ()

    @property
    def failures(self) -> list[str]:
        found = list(self.failed)
        if self.same_again is False:
            found.append("the same command left other weights")
        if self.same_resumed is False:
            found.append("a run that was resumed left other weights")
        for step in self.loss.keys() & self.loss_on_cpu.keys():
            here, cpu = self.loss[step], self.loss_on_cpu[step]
            if not abs(here - cpu) <= CPU_TOLERANCE * abs(cpu):
                found.append(f"the loss at step {step} is {here:.6g} nats, on the CPU {cpu:.6g}")
        return [f"training, {failure}" for failure in found]


class Runs:
    """Trainings in a folder that is removed afterwards."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self._folder, self._options = folder, options

    def start(self, held: ExitStack, name: str, *options: str) -> subprocess.Popen[str]:
        own = () if "--resume" in options else (*self._options, "--out", str(self.path(name)))
        line = (sys.executable, "-m", "betavae_fast", "train", *own, *options)
        return held.enter_context(started(line, ROOT, {}))

    def path(self, name: str) -> Path:
        return self._folder / name

    def losses(self, name: str) -> dict[int, float]:
        return {entry.step: entry.loss for entry in read_log(RunFolder(self.path(name)).metrics)}

    def same_weights(self, name: str, other: str) -> bool:
        first, second = (load_checkpoint(RunFolder(self.path(n)).checkpoint).model for n in (name, other))
        return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)

    def speed(self, name: str, batch_size: int, steps: int) -> Speed:
        entries = read_log(RunFolder(self.path(name)).metrics)
        rate = images_per_second(self.path(name))
        return Speed(batch_size, steps, rate, entries[0].loss, entries[-1].loss)


def images_per_second(folder: Path) -> float:
    """The median rate of a run's logged intervals, without the first if there are others."""
    rates = [entry.images_per_second for entry in read_log(RunFolder(folder).metrics)]
    return median(rates[1:] or rates)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="dsprites", help="--data of the train command; default: dsprites")
    parser.add_argument(
        "--tiny", type=positive, metavar="STEPS", help="rehearse with a small network and so many steps"
    )


def measure(run: Run) -> Iterator[Training]:
    results, tiny, device = Training(**run.origin), run.args.tiny, run.device.type
    yield results  # replaces an older file; no result is known yet
    speeds, steps, log_every, asked = SPEEDS, SHORT_STEPS, LOG_EVERY, ["--data", run.args.data]
    if tiny:
        speeds, steps, log_every = ((8, tiny), (32, tiny)), tiny, max(1, tiny // 4)
        asked += ["--architecture", "mlp"]
    with tempfile.TemporaryDirectory(prefix="betavae-fast-training-") as folder:
        runs = Runs(Path(folder), [*asked, "--log-every", str(log_every)])
        for batch_size, count in speeds:
            name = f"{count} steps of {batch_size}"
            own = ("--device", device, "--batch-size", str(batch_size), "--steps", str(count))
            with run.console.status(name), ExitStack() as held:
                status = runs.start(held, name, *own).wait()
            if status:
                results = replace(results, failed=(*results.failed, f"{name}: exit status {status}"))
            else:
                results = replace(results, speeds=(*results.speeds, runs.speed(name, batch_size, count)))
            yield results
        with run.console.status("the promises"), ExitStack() as held:
            ended = _short_runs(runs, held, device, steps, "8" if tiny else "64")
        failed = [f"run {name}: it failed" for name, well in ended.items() if not well]
        results = replace(results, failed=(*results.failed, *failed))
        if ended["whole"]:
            results = replace(results, loss=runs.losses("whole"))
        if ended["whole"] and ended["again"]:
            results = replace(results, same_again=runs.same_weights("whole", "again"))
        if ended["whole"] and ended["half"]:
            results = replace(results, same_resumed=runs.same_weights("whole", "half"))
        if ended["cpu"]:
            results = replace(results, loss_on_cpu=runs.losses("cpu"))
        yield results


def _short_runs(runs: Runs, held: ExitStack, device: str, steps: int, batch_size: str) -> dict[str, bool]:
    """Take the four runs that the promises are checked with. Returns: for each, True if it ended well."""
    short = ("--precision", "fp32", "--batch-size", batch_size)
    here, half = (*short, "--device", device), max(1, steps // 2)
    processes = {
        "whole": runs.start(held, "whole", *here, "--steps", str(steps)),
        "again": runs.start(held, "again", *here, "--steps", str(steps)),
        "half": runs.start(held, "half", *here, "--steps", str(half)),
        "cpu": runs.start(held, "cpu", *short, "--device", "cpu", "--steps", str(steps)),
    }
    if processes["half"].wait() == 0:
        resumed = ("--resume", str(runs.path("half")), "--steps", str(steps))
        processes["half"] = runs.start(held, "half", *resumed)
    return {name: process.wait() == 0 for name, process in processes.items()}


def show(results: Training) -> str:
    speeds = ((f"{s.steps} steps of {s.batch_size}", f"{s.images_per_second:,.0f}") for s in results.speeds)
    both = sorted(results.loss.keys() & results.loss_on_cpu.keys())
    losses = ((str(step), f"{results.loss[step]:.6g}", f"{results.loss_on_cpu[step]:.6g}") for step in both)
    return "\n\n".join(
        (
            markdown(("run", "images/s:"), speeds),
            f"Same again: {results.same_again}, same resumed: {results.same_resumed}.",
            markdown(("step:", "loss, nats:", "on the CPU:"), losses),
        )
    )


STUDY = Study(
    "benchmarks.training",
    __doc__,
    Training,
    "train/MACHINE.json",
    measure,
    show,
    options,
    device="cpu",
    threads=False,
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

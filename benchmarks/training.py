"""Trains with the real command on this machine, measures its speed and checks its promises.

    python -m benchmarks.training --device cuda

Two runs are timed: 20,000 steps of 64 images, and 500 of 4096. Then four runs in float32 are started at once and not
timed. A run and its repetition must give the same weights, bit for bit, and so must a run that ended half-way and was
resumed. The same run on the CPU must give about the same loss. The file is written anew after each result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

from benchmarks import RESULTS, ROOT
from benchmarks.arguments import available, command, positive, writable
from benchmarks.processes import started
from betavae_fast.bench import machine
from betavae_fast.bench.results import Provenance
from betavae_fast.files import write_json
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.metrics import read_metrics
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
    """

    speeds: tuple[Speed, ...] = ()
    same_again: bool | None = None
    same_resumed: bool | None = None
    loss: dict[int, float] = field(default_factory=dict)
    loss_on_cpu: dict[int, float] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        found = []
        if self.same_again is False:
            found.append("the same command left other weights")
        if self.same_resumed is False:
            found.append("a run that was resumed left other weights")
        for step in self.loss.keys() & self.loss_on_cpu.keys():
            here, cpu = self.loss[step], self.loss_on_cpu[step]
            if not abs(here - cpu) <= CPU_TOLERANCE * abs(cpu):
                found.append(f"the loss at step {step} is {here:.6g} nats, on the CPU {cpu:.6g}")
        return found


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
        return {entry.step: entry.loss for entry in read_metrics(RunFolder(self.path(name)).metrics)}

    def same_weights(self, name: str, other: str) -> bool:
        first, second = (load_checkpoint(RunFolder(self.path(n)).checkpoint).model for n in (name, other))
        return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)

    def speed(self, name: str, batch_size: int, steps: int) -> Speed:
        entries = read_metrics(RunFolder(self.path(name)).metrics)
        rates = [entry.images_per_second for entry in entries]
        return Speed(batch_size, steps, median(rates[1:] or rates), entries[0].loss, entries[-1].loss)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns: 1 if a run failed or a promise does not hold, both of which are named; else 0."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--device", type=available, choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--data", default="dsprites", help="--data of the train command")
    parser.add_argument(
        "--tiny", type=positive, metavar="STEPS", help="rehearse with a small network and so many steps"
    )
    parser.add_argument("--out", type=writable, help="default: benchmarks/results/train/MACHINE.json")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    out = args.out or RESULTS / "train" / f"{machine.kind(device)}.json"
    console = Console(highlight=False, soft_wrap=True, markup=False)
    results = Training(command=command("benchmarks.training", arguments), **machine.provenance(device))
    write_json(out, results)  # replaces an older file; no result is known yet
    failed: list[str] = []
    speeds, steps, log_every = SPEEDS, SHORT_STEPS, LOG_EVERY

    def keep(**found: Any) -> None:
        nonlocal results
        results = replace(results, **found)
        write_json(out, results)

    with tempfile.TemporaryDirectory(prefix="betavae-fast-training-") as name:
        options = ["--data", args.data]
        if args.tiny:
            speeds, steps, log_every = ((8, args.tiny), (32, args.tiny)), args.tiny, max(1, args.tiny // 4)
            options += ["--architecture", "mlp"]
        runs = Runs(Path(name), [*options, "--log-every", str(log_every)])
        for batch_size, count in speeds:
            run = f"{count} steps of {batch_size}"
            with ExitStack() as held:
                asked = ("--device", args.device, "--batch-size", str(batch_size), "--steps", str(count))
                if status := runs.start(held, run, *asked).wait():
                    failed.append(f"{run}: exit status {status}")
                    continue
            keep(speeds=(*results.speeds, runs.speed(run, batch_size, count)))
            console.print(f"{run}: {results.speeds[-1].images_per_second:,.0f} images/s")
        with ExitStack() as held:
            short = ("--precision", "fp32", "--batch-size", "8" if args.tiny else "64")
            here, half = (*short, "--device", args.device), max(1, steps // 2)
            processes = {
                "whole": runs.start(held, "whole", *here, "--steps", str(steps)),
                "again": runs.start(held, "again", *here, "--steps", str(steps)),
                "half": runs.start(held, "half", *here, "--steps", str(half)),
                "cpu": runs.start(held, "cpu", *short, "--device", "cpu", "--steps", str(steps)),
            }
            if processes["half"].wait() == 0:
                resumed = ("--resume", str(runs.path("half")), "--steps", str(steps))
                processes["half"] = runs.start(held, "half", *resumed)
            ended = {run: process.wait() == 0 for run, process in processes.items()}
        failed += [f"run {run}: it failed" for run, passed in ended.items() if not passed]
        if ended["whole"]:
            keep(loss=runs.losses("whole"))
        if ended["whole"] and ended["again"]:
            keep(same_again=runs.same_weights("whole", "again"))
        if ended["whole"] and ended["half"]:
            keep(same_resumed=runs.same_weights("whole", "half"))
        if ended["cpu"]:
            keep(loss_on_cpu=runs.losses("cpu"))
    console.print(f"same again: {results.same_again}, same resumed: {results.same_resumed}")
    for step in sorted(results.loss.keys() & results.loss_on_cpu.keys()):
        console.print(
            f"loss at step {step}: {results.loss[step]:.6g} nats, on the CPU {results.loss_on_cpu[step]:.6g}"
        )
    console.print(f"Written to {out}")
    failed += results.failures
    for failure in failed:
        console.print(f"FAILED training, {failure}")
    return int(bool(failed))


def load(path: Path) -> Training:
    """Read a result file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    speeds = tuple(Speed(**entry) for entry in document.pop("speeds"))
    for name in ("loss", "loss_on_cpu"):
        document[name] = {int(step): loss for step, loss in document[name].items()}
    return Training(speeds=speeds, **document)


if __name__ == "__main__":
    sys.exit(main())

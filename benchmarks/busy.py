"""Times training on the CPU while other programs run: ``python -m benchmarks.busy``.

The command line trains on rendered sprites (burgess, batch 64): alone, beside processes that each keep a core busy, and
beside a second training of the same kind. All compute in float32, because "auto" may choose otherwise beside other
programs. Rates are medians over the log without its first entry. Writes
busy/MACHINE.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import ROOT
from benchmarks.arguments import positive
from benchmarks.pages import markdown
from benchmarks.processes import started
from benchmarks.study import Run, Study, StudyError
from benchmarks.training import images_per_second
from betavae_fast.bench.results import Provenance

LOG_EVERY = 10
_SPIN = "while True: pass"


@dataclass(frozen=True)
class Setting:
    """A training with ``threads`` threads, the programs beside it, and the images per second of each training."""

    beside: str
    threads: int
    wait_policy: str  # OMP_WAIT_POLICY; "" leaves it to the command line
    images_per_second: tuple[float, ...]


@dataclass(frozen=True)
class Busy(Provenance):
    steps: int
    settings: tuple[Setting, ...]


def train(runs: int, steps: int, threads: int, wait_policy: str) -> tuple[float, ...]:
    """Run ``runs`` trainings side by side. Returns: the images per second of each."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if wait_policy:
        environment["OMP_WAIT_POLICY"] = wait_policy
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        outs = [Path(folder, str(number)) for number in range(runs)]
        options = [
            f"--steps={steps}",
            f"--threads={threads}",
            f"--log-every={LOG_EVERY}",
            "--precision=fp32",
        ]
        processes = [
            held.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "betavae_fast", "train", *options, f"--out={out}"],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                )
            )
            for out in outs
        ]
        if any(process.wait() for process in processes):
            raise StudyError("a training failed")
        return tuple(images_per_second(out) for out in outs)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=positive, default=100, help="default: 100")


def measure(run: Run) -> Iterator[Busy]:
    settings: tuple[Setting, ...] = ()
    steps, threads = run.args.steps, torch.get_num_threads()
    for beside, spinners, runs, policy in (
        ("nothing", 0, 1, ""),
        ("one busy process", 1, 1, ""),
        ("two busy processes", 2, 1, ""),
        ("a second training", 0, 2, ""),
        ("nothing", 0, 1, "ACTIVE"),
        ("one busy process", 1, 1, "ACTIVE"),
    ):
        with run.console.status(f"beside {beside}"), ExitStack() as held:
            for _ in range(spinners):
                held.enter_context(started((sys.executable, "-c", _SPIN), ROOT, {}))
            rates = train(runs, steps, threads, policy)
        settings = (*settings, Setting(beside, threads, policy, rates))
    yield Busy(**run.origin, steps=steps, settings=settings)


def show(results: Busy) -> str:
    (alone,) = results.settings[0].images_per_second
    rows = (
        (
            s.beside,
            s.wait_policy,
            ", ".join(f"{rate:,.0f} ({rate / alone:.0%})" for rate in s.images_per_second),
        )
        for s in results.settings
    )
    return markdown(("beside", "OMP_WAIT_POLICY", "images/s:"), rows)


STUDY = Study("benchmarks.busy", __doc__, Busy, "busy/MACHINE.json", measure, show, options)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

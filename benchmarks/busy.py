"""Times training on the CPU while other programs run: ``python -m benchmarks.busy``.

The command line trains on rendered sprites (burgess, batch 64): alone, beside processes that each keep a core busy, and
beside a second training of the same kind. Rates are medians over the log without its first entry. Writes
busy/MACHINE.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.console import Console

from benchmarks import RESULTS
from benchmarks.arguments import command, positive, writable
from betavae_fast.bench import machine
from betavae_fast.bench.results import Provenance
from betavae_fast.files import write_json
from betavae_fast.training.metrics import read_metrics
from betavae_fast.training.run_folder import RunFolder

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


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """Keep ``count`` cores busy with one process each."""
    processes = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def train(runs: int, steps: int, threads: int, wait_policy: str) -> tuple[float, ...]:
    """Run ``runs`` trainings side by side. Returns: the images per second of each."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if wait_policy:
        environment["OMP_WAIT_POLICY"] = wait_policy
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:
        outs = [Path(folder, str(number)) for number in range(runs)]
        options = [f"--steps={steps}", f"--threads={threads}", f"--log-every={LOG_EVERY}"]
        processes = [
            started.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "betavae_fast", "train", *options, f"--out={out}"],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                )
            )
            for out in outs
        ]
        if any(process.wait() for process in processes):
            raise RuntimeError("a training failed")
        entries = [read_metrics(RunFolder(out).metrics)[1:] for out in outs]
    return tuple(median(entry.images_per_second for entry in log) for log in entries)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.busy", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--steps", type=positive, default=100)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--out", type=writable, help="default: benchmarks/results/busy/MACHINE.json")
    args = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    settings = []
    for beside, spinners, runs, policy in (
        ("nothing", 0, 1, ""),
        ("one busy process", 1, 1, ""),
        ("two busy processes", 2, 1, ""),
        ("a second training", 0, 2, ""),
        ("nothing", 0, 1, "ACTIVE"),
        ("one busy process", 1, 1, "ACTIVE"),
    ):
        with spinning(spinners):
            rates = train(runs, args.steps, args.threads, policy)
        settings.append(Setting(beside, args.threads, policy, rates))
        shares = ", ".join(f"{rate:,.0f} ({rate / settings[0].images_per_second[0]:.0%})" for rate in rates)
        console.print(f"beside {beside}{f', {policy}' if policy else ''}: {shares} images/s")
    device = torch.device("cpu")
    results = Busy(
        command=command("benchmarks.busy", arguments),
        **machine.provenance(device),
        steps=args.steps,
        settings=tuple(settings),
    )
    out = args.out or RESULTS / "busy" / f"{machine.kind(device)}.json"
    write_json(out, results)
    console.print(f"Written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

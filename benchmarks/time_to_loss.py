"""Times training until the loss reaches a target: ``python -m benchmarks.time_to_loss --threads 2``.

The contenders are those of the training step. They train one after the other, each in a process of its own, with the same
initial weights, batches and noise. Writes time-to-loss/MACHINE.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console

from benchmarks import RESULTS
from benchmarks.arguments import available, command, positive, writable
from benchmarks.step import NETWORK
from benchmarks.trainers import TRAINERS
from betavae_fast.bench import machine
from betavae_fast.bench.results import Provenance
from betavae_fast.files import write_json

CONTENDERS = ("eager", "pythae", "ours")
BATCH_SIZE, TARGET, WINDOW, MOST_STEPS = 64, 150.0, 50, 4000


@dataclass(frozen=True)
class Run:
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
    runs: tuple[Run, ...]
    absent: dict[str, str]


def train(contender: str, device: str, threads: int, target: float) -> Run:
    """Train until the target is reached. Raises: RuntimeError if it is not reached in ``MOST_STEPS``."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    trainer = TRAINERS[device][contender](BATCH_SIZE, device)
    losses: deque[float] = deque(maxlen=WINDOW)
    start = perf_counter()
    for step in range(MOST_STEPS):
        losses.append(trainer.loss_of_step(step))
        mean = sum(losses) / len(losses)
        if len(losses) == WINDOW and mean <= target:
            return Run(contender, step + 1, perf_counter() - start, mean)
    raise RuntimeError(f"{contender}: a loss of {mean:.1f} nats after {MOST_STEPS} steps, not {target}")


def load(path: Path) -> TimeToLoss:
    document = json.loads(path.read_text(encoding="utf-8"))
    runs = tuple(Run(**entry) for entry in document.pop("runs"))
    return TimeToLoss(runs=runs, **document)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_loss", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--device", type=available, choices=TRAINERS, default="cpu")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument(
        "--target", type=float, default=TARGET, help="loss per image with β times the KL, nats"
    )
    parser.add_argument("--out", type=writable, help="default: benchmarks/results/time-to-loss/MACHINE.json")
    args = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    absent = {} if importlib.util.find_spec("pythae") else {"pythae": "it is not installed"}
    runs = []
    for contender in CONTENDERS:
        if contender not in absent:
            with get_context("spawn").Pool(1) as pool:
                try:
                    runs.append(pool.apply(train, (contender, args.device, args.threads, args.target)))
                except RuntimeError as error:
                    console.print(f"Nothing is written: {error}")
                    return 1
            console.print(f"{contender}: {runs[-1].steps:,} steps, {runs[-1].seconds:.1f} s")
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    results = TimeToLoss(
        command=command("benchmarks.time_to_loss", arguments),
        **machine.provenance(device),
        network=NETWORK,
        batch_size=BATCH_SIZE,
        target=args.target,
        runs=tuple(runs),
        absent=absent,
    )
    out = args.out or RESULTS / "time-to-loss" / f"{machine.kind(device)}.json"
    write_json(out, results)
    console.print(f"Written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

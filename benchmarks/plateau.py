"""Counts the steps that runs stay on the plateau of the mean image: ``python -m benchmarks.plateau``.

Every run on dSprites begins by learning the mean image, and stays there until its first channels open. How long it stays
depends on the rule for the initial weights. Each run ends as soon as its reconstruction loss is a fifth below that of the
mean image.
Writes plateau/plateau.json.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from statistics import median
from typing import Any, get_args

from benchmarks.arguments import at_least
from benchmarks.disentanglement import has_left_plateau
from benchmarks.pages import markdown
from benchmarks.study import Run, Study
from betavae_fast.bench.results import Provenance, save_by_lines
from betavae_fast.choices import Initialization
from betavae_fast.data import ImageDataset, load_dataset
from betavae_fast.evaluation.summary import summarise
from betavae_fast.nn import BetaVAE
from betavae_fast.training import process
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import LogEntry
from betavae_fast.training.loop import train
from betavae_fast.training.state import prepare

RULES = get_args(Initialization)
OBJECTIVES = ("beta", "btcvae", "factorvae", "capacity", "dipvae-i", "dipvae-ii")
# Options that are not the defaults. The capacity grows from 0 over 100,000 steps by default, so that nothing could open.
OPTIONS: dict[str, dict[str, Any]] = {"capacity": {"capacity_steps": 6000, "capacity_weight": 100.0}}
SEEDS, MOST_STEPS, LOG_EVERY = 10, 3000, 20


@dataclass(frozen=True)
class PlateauRun:
    """The steps that a run stayed on the plateau, rounded up to a multiple of ``LOG_EVERY``; None if it did not leave."""

    objective: str
    initialization: str
    seed: int
    steps: int | None


@dataclass(frozen=True)
class PlateauResults(Provenance):
    configuration: dict[str, Any]
    most_steps: int
    runs: tuple[PlateauRun, ...]

    def save(self, path: Any) -> None:
        save_by_lines(self, path, "objective")


def count(kind: tuple[str, str, int], shared: dict[str, Any]) -> PlateauRun:
    """Train a run of an objective, a rule for the initial weights and a seed, until it leaves the plateau."""
    objective, rule, seed = kind
    own = {"objective": objective, "initialization": rule, "seed": seed} | OPTIONS.get(objective, {})
    config = TrainConfig.from_entries(shared | own)
    process.set_threads(config.threads)
    dataset, mean_image = _images(config.data)
    left: list[int] = []

    def look(entry: LogEntry) -> None:
        if has_left_plateau(entry, mean_image):
            left.append(entry.step)

    train(prepare(config, dataset), None, on_entry=look, should_stop=lambda: bool(left))
    return PlateauRun(objective, rule, seed, left[0] if left else None)


@cache  # once for each process
def _images(data: str) -> tuple[ImageDataset, float]:
    """The data set, and the reconstruction loss of its mean image in nats."""
    dataset = load_dataset(data)
    summary = summarise(BetaVAE(dataset.image_shape).eval(), dataset)
    return dataset, summary.mean_image_reconstruction


def measure(run: Run) -> Iterator[PlateauResults]:
    args = run.args
    shared = {
        "data": args.data,
        "steps": args.steps,
        "log_every": min(LOG_EVERY, args.steps),
        "device": "cpu",
        "precision": args.precision,
        "threads": 1,
    }
    found: list[PlateauRun] = []
    with get_context("spawn").Pool(args.jobs) as pool:
        for objective in args.objectives:
            kinds = [(objective, rule, seed) for seed in range(args.seeds) for rule in RULES]
            with run.console.status(objective):
                found += pool.map(partial(count, shared=shared), kinds, chunksize=1)
            yield PlateauResults(**run.origin, configuration=shared, most_steps=args.steps, runs=tuple(found))


def show(results: PlateauResults) -> str:
    """The median and the largest number of steps of each objective and rule, as Markdown."""
    rows = []
    for objective in dict.fromkeys(run.objective for run in results.runs):
        cells = [objective]
        for rule in RULES:
            steps = [
                run.steps for run in results.runs if (run.objective, run.initialization) == (objective, rule)
            ]
            cells.append(_in_words(steps, results.most_steps))
        rows.append(cells)
    return markdown(("objective", *(f"{rule}:" for rule in RULES)), rows)


def _in_words(steps: Sequence[int | None], most: int) -> str:
    """The median and the worst. A run that did not leave counts as longer than all."""
    numbers = sorted(math.inf if one is None else one for one in steps)
    middle, worst = (
        f"{value:.0f}" if math.isfinite(value) else f"over {most}" for value in (median(numbers), numbers[-1])
    )
    return f"{middle} (worst {worst})"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES, help="default: all", metavar="NAME"
    )
    parser.add_argument("--data", default="dsprites", help="a name or a path; default: dsprites")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    for name, least, value, what in (
        ("--seeds", 1, SEEDS, "seeds, from 0 up"),
        ("--steps", 1, MOST_STEPS, "steps after which a run ends"),
        ("--jobs", 1, 2, "runs at a time, each with one thread"),
    ):
        parser.add_argument(name, type=at_least(least), default=value, help=f"{what}; default: {value}")


STUDY = Study(
    "benchmarks.plateau",
    __doc__,
    PlateauResults,
    "plateau/plateau.json",
    measure,
    show,
    options,
    threads=False,
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

"""Draws the KL and the weight of each objective in short runs on sprites: ``python -m benchmarks.objectives``.

Writes objectives.json into benchmarks/results/objectives/, and a picture of each objective into docs/guides/objectives/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import ROOT
from benchmarks.arguments import at_least
from benchmarks.pages import markdown
from benchmarks.study import Run, Study, tidy
from betavae_fast.bench.results import Provenance, save_by_lines
from betavae_fast.choices import ACTIVE_NATS
from betavae_fast.data import DatasetError, ImageDataset, load_dataset
from betavae_fast.settings import flag
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import LogEntry
from betavae_fast.training.loop import train
from betavae_fast.training.state import prepare

STEPS, LOG_EVERY = 1500, 10
PICTURES = ROOT / "docs" / "guides" / "objectives"
OPTIONS: dict[str, dict[str, Any]] = {
    "beta": {"objective": "beta", "beta": 4.0},
    "warm-up": {"objective": "beta", "beta": 4.0, "beta_warmup": 1000, "lr_warmup": 200},
    "warm-up-alone": {"objective": "beta", "beta": 4.0, "beta_warmup": 1000},
    "capacity": {
        "objective": "capacity",
        "capacity": 12.0,
        "capacity_steps": 1000,
        "capacity_weight": 10.0,
    },
    "capacity-forced": {
        "objective": "capacity",
        "capacity": 12.0,
        "capacity_steps": 1000,
        "capacity_weight": 100.0,
    },
    "free-bits": {"objective": "free-bits", "free_bits": 0.5},
    "lagrangian": {"objective": "lagrangian", "kl_limit": 8.0},
    "geco": {"objective": "geco", "reconstruction_limit": 130.0},
}
REFERENCE = "beta"  # drawn into every picture
# Objective -> the metric that is its weight.
_WEIGHTS = {
    "beta": "beta",
    "capacity": "capacity",
    "free-bits": None,
    "lagrangian": "multiplier",
    "geco": "multiplier",
}
# Objective -> the panel with a limit, and the option that sets the limit.
_LIMITS = {
    "capacity": ("kl", "capacity"),
    "lagrangian": ("kl", "kl_limit"),
    "geco": ("reconstruction", "reconstruction_limit"),
}
_LABELS = {
    "beta": "β",
    "capacity": "C, nats",
    "multiplier": "multiplier",
    None: f"channels above {ACTIVE_NATS} nats",
}
_COLOUR, _FADED, _LIMIT = "#1f6fb4", "#b0b0b0", "#e07b00"


@dataclass(frozen=True)
class ObjectiveRun:
    """The run of one objective; each list has a value for every ``LOG_EVERY`` steps, their mean."""

    name: str
    options: dict[str, Any]
    step: list[int]
    reconstruction: list[float]  # nats per image
    kl: list[float]  # nats per image
    active_channels: list[int]
    logged: dict[str, list[float]]  # metrics of the objective itself


@dataclass(frozen=True)
class ObjectiveResults(Provenance):
    configuration: dict[str, object]
    runs: tuple[ObjectiveRun, ...]

    def save(self, path: Path) -> None:
        save_by_lines(self, path, "name")


def train_with(name: str, dataset: ImageDataset, steps: int) -> ObjectiveRun:
    # Fix the device and the precision, because those that "auto" takes depend on the machine.
    same = {"steps": steps, "log_every": LOG_EVERY, "device": "cpu", "precision": "fp32"}
    config = TrainConfig.from_entries(same | OPTIONS[name])
    entries: list[LogEntry] = []
    train(prepare(config, dataset), None, on_entry=entries.append)
    return ObjectiveRun(
        name,
        OPTIONS[name],
        [e.step for e in entries],
        [round(e.reconstruction, 3) for e in entries],
        [round(e.kl, 4) for e in entries],
        [e.active_channels for e in entries],
        {key: [round(e.objective[key], 5) for e in entries] for key in entries[0].objective},
    )


def draw(run: ObjectiveRun, reference: ObjectiveRun) -> Figure:
    """Draw reconstruction, KL and weight over the steps: the run in colour, the reference in grey, limits dashed."""
    figure = Figure(figsize=(10.5, 3.0), layout="constrained")
    objective = run.options["objective"]
    weight = _WEIGHTS[objective]
    panels = {
        "reconstruction": "reconstruction loss, nats",
        "kl": "KL, nats",
        "weight": _LABELS[weight],
    }
    for axis, (panel, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for one, colour in ((reference, _FADED), (run, _COLOUR)):
            if panel != "weight":
                values = getattr(one, panel)
            elif weight is None:
                values = one.active_channels
            else:
                values = one.logged[weight] if one is run else one.logged["beta"]
                if objective in ("capacity", "geco") and one is reference:
                    continue  # β is neither C nor the reconstruction's multiplier
            axis.plot(one.step, values, color=colour, linewidth=1.3, label=one.name)
        limited, option = _LIMITS.get(objective, ("", ""))
        if limited == panel:
            axis.axhline(run.options[option], color=_LIMIT, linestyle="--", linewidth=1)
        if panel == "reconstruction":
            axis.set_ylim(80, 620)  # the mean image is at 565; the first steps are above 1,000
        if panel == "kl":
            later = [
                kl
                for one in (reference, run)
                for step, kl in zip(one.step, one.kl, strict=True)
                if step > 100
            ]
            axis.set_ylim(-0.5, 1.1 * max(later, default=1.0))  # the first steps overshoot
        axis.set_title(label, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        tidy(axis)
    handles, _ = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        [f"{reference.name} (β = 4)", run.name],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    return figure


def table(results: ObjectiveResults) -> str:
    """The means over the last ``LOG_EVERY`` steps of each run, as Markdown."""
    rows = []
    for run in results.runs:
        own = (f"{flag(name)} {value:g}" for name, value in run.options.items() if name != "objective")
        command = f"`--objective {run.options['objective']} {' '.join(own)}`"
        nats = f"{run.reconstruction[-1]:.1f}", f"{run.kl[-1]:.2f}"
        rows.append((run.name, command, *nats, str(run.active_channels[-1])))
    return markdown(("run", "options", "reconstruction, nats", "KL, nats", "channels in use"), rows)


def pictures(results: ObjectiveResults) -> dict[str, Figure]:
    reference = next(run for run in results.runs if run.name == REFERENCE)
    return {run.name: draw(run, reference) for run in results.runs if run is not reference}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=at_least(LOG_EVERY), default=STEPS, help=f"default: {STEPS}")
    parser.add_argument("--data", default="dsprites", help="default: dsprites")


def measure(run: Run) -> Iterator[ObjectiveResults]:
    try:
        dataset = load_dataset(run.args.data)
    except DatasetError as error:
        raise argparse.ArgumentTypeError(f"--data: {error}") from error
    runs: tuple[ObjectiveRun, ...] = ()
    for name in OPTIONS:
        with run.console.status(name):
            runs = (*runs, train_with(name, dataset, run.args.steps))
    configuration = {"steps": run.args.steps, "data": run.args.data, "log_every": LOG_EVERY}
    yield ObjectiveResults(**run.origin, configuration=configuration, runs=runs)


STUDY = Study(
    "benchmarks.objectives",
    __doc__,
    ObjectiveResults,
    "objectives/objectives.json",
    measure,
    table,
    options,
    threads=False,
    draw=pictures,
    pictures=PICTURES,
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

"""Collects what β and the objectives do to disentanglement: ``python -m benchmarks.disentanglement SWEEP ...``.

Each SWEEP is the folder of a finished ``betavae-fast sweep --file benchmarks/disentanglement.toml --metrics all``, or of
a part of that sweep. Their runs are added to disentanglement/disentanglement.json, where they replace runs of the same
setting and seed. Prints the medians with quartiles and draws the pictures, which docs/disentanglement.md shows.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks import RESULTS, ROOT
from benchmarks.pages import markdown
from benchmarks.study import Run, Study, StudyError, tidy
from betavae_fast import settings
from betavae_fast.bench.results import Provenance, save_by_lines
from betavae_fast.objectives import options
from betavae_fast.sweep.folder import SweepFolder
from betavae_fast.sweep.grid import SEED
from betavae_fast.sweep.report import KL, RECONSTRUCTION, UDR
from betavae_fast.training.run_folder import RunFolder, read_config

FILE = "disentanglement/disentanglement.json"
PICTURES = ROOT / "docs" / "disentanglement"
MIG, DCI = "MIG", "DCI disentanglement"
_COLUMNS = {
    RECONSTRUCTION: "rec.",
    KL: "KL",
    "channels used": "channels",
    MIG: "MIG",
    DCI: "DCI D",
    "DCI completeness": "DCI C",
    "DCI informativeness": "DCI I",
    "BetaVAE score": "BetaVAE",
    "FactorVAE score": "FactorVAE",
    "SAP": "SAP",
    "Modularity": "modularity",
    "Explicitness": "explicitness",
    "IRS": "IRS",
    UDR: "UDR",
}
# The settings that may differ between machines without making another experiment.
_OF_THE_MACHINE = ("precision", "threads", "device", "backend", "log_every", "checkpoint_every")


@dataclass(frozen=True)
class StudyRun:
    """A trained and evaluated model: its objective with all options, its seed and precision, its losses and scores."""

    name: str
    objective: dict[str, Any]
    seed: int
    precision: str
    machine: str
    values: dict[str, float]


@dataclass(frozen=True)
class DisentanglementResults(Provenance):
    configuration: dict[str, Any]  # the settings that all runs share
    runs: tuple[StudyRun, ...]

    @property
    def measured(self) -> bool:
        return bool(self.runs)

    def save(self, path: Path) -> None:
        save_by_lines(self, path, "name")


class Group(NamedTuple):
    """The runs of one setting."""

    name: str
    runs: list[StudyRun]

    def values(self, label: str) -> list[float]:
        """The finite values of the quantity ``label``."""
        found = np.array([run.values.get(label, np.nan) for run in self.runs])
        return [float(value) for value in found[np.isfinite(found)]]

    def quartiles(self, label: str) -> tuple[float, float, float] | None:
        """The first quartile, the median and the third quartile; None if no run has the quantity."""
        values = self.values(label)
        if not values:
            return None
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return float(low), float(median), float(high)


def read_sweep(folder: Path, machine: str) -> tuple[dict[str, Any], list[StudyRun]]:
    """Read the settings that the runs of a sweep share, and the runs.

    Raises: StudyError if ``folder`` is no finished sweep, or its runs differ in more than objective and seed.
    """
    sweep = SweepFolder(folder)
    if not sweep.table.exists():
        raise StudyError(f"{folder} is not the folder of a finished sweep: it has no {sweep.table.name}")
    shared: dict[str, Any] = {}
    runs = []
    with sweep.table.open(newline="") as file:
        for row in csv.DictReader(file):
            config = read_config(RunFolder(folder / row["run"]))
            entries, own = config.entries(), options.entries(config.objective)
            objective = {"objective": entries["objective"], **own}
            rest = {
                name: value
                for name, value in entries.items()
                if name not in (*objective, SEED, *_OF_THE_MACHINE)
            }
            shared = shared or rest
            check_same(shared, rest)
            values = {label: float(row[label]) for label in row if label in _COLUMNS and row[label]}
            name = f"{_name(objective)}, seed {config.seed}"
            runs.append(StudyRun(name, objective, config.seed, config.precision, machine, values))
    return shared, runs


def check_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise StudyError if two runs have other settings than objective, seed and machine in common."""
    for name in one:
        if one[name] != other.get(name):
            raise StudyError(f"runs of one study have the same {name}, got {one[name]} and {other.get(name)}")


def groups(runs: Sequence[StudyRun]) -> list[Group]:
    """The runs by their setting, in the order of the registry and, for one objective, of its options."""
    order = list(options.OBJECTIVES)
    by_name: dict[str, list[StudyRun]] = {}
    for run in sorted(runs, key=lambda run: (order.index(run.objective["objective"]), _main(run), run.seed)):
        by_name.setdefault(_name(run.objective), []).append(run)
    return [Group(name, found) for name, found in by_name.items()]


def table(results: DisentanglementResults) -> str:
    """The medians of all settings, with their quartiles, as Markdown."""
    found = groups(results.runs)
    present = [label for label in _COLUMNS if any(group.values(label) for group in found)]
    rows = []
    for group in found:
        cells = [group.name, str(len(group.runs))]
        for label in present:
            quartiles = group.quartiles(label)
            cells.append("" if quartiles is None else _in_words(label, *quartiles))
        rows.append(cells)
    return markdown(("setting", "seeds:", *(f"{_COLUMNS[label]}:" for label in present)), rows)


def _in_words(label: str, low: float, median: float, high: float) -> str:
    digits = 1 if label in (RECONSTRUCTION, KL) else 0 if label == "channels used" else 2
    return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _main(run: StudyRun) -> float:
    """The value by which the settings of an objective are sorted: its first option."""
    return float(next(iter(list(run.objective.values())[1:]), 0.0))


def _name(objective: Mapping[str, Any]) -> str:
    """The objective and the options that differ from its defaults; β always."""
    kind = options.OBJECTIVES[objective["objective"]]
    defaults = {found.option: found.default for found in settings.declared(kind)}
    shown = [
        f"{'β' if name == 'beta' else name.replace('_', ' ')} = {value:g}"
        for name, value in objective.items()
        if name != "objective" and isinstance(value, int | float)
        if name == "beta" or value != defaults[name]
    ]
    return ", ".join([objective["objective"], *shown])


def pictures(results: DisentanglementResults) -> dict[str, Figure]:
    """The drawings: reconstruction against KL, the scores against β, and UDR against MIG."""
    found = groups(results.runs)
    return {
        "reconstruction-kl": _scatter(found, KL, RECONSTRUCTION, "KL, nats", "reconstruction loss, nats"),
        "scores-beta": _against_beta(found),
        "udr-mig": _scatter(found, MIG, UDR, "MIG", "UDR"),
    }


def _scatter(found: Sequence[Group], x: str, y: str, x_label: str, y_label: str) -> Figure:
    """Draw each run as a point, in the colour of its setting."""
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axis = figure.subplots()
    for number, group in enumerate(found):
        points = [
            (run.values[x], run.values[y])
            for run in group.runs
            if np.isfinite([run.values.get(x, np.nan), run.values.get(y, np.nan)]).all()
        ]
        if points:
            across, up = zip(*points, strict=True)
            axis.scatter(across, up, s=28, color=f"C{number}", label=group.name)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    tidy(axis)
    if axis.collections:
        figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


def _against_beta(found: Sequence[Group]) -> Figure:
    """Draw MIG and DCI of the β-VAE against β: the runs as points, their median as a line, the quartiles as a band."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    chosen = [group for group in found if group.runs[0].objective["objective"] == "beta"]
    betas = [group.runs[0].objective["beta"] for group in chosen]
    for axis, label in zip(figure.subplots(1, 2), (MIG, DCI), strict=True):
        known = [
            (beta, group, quartiles)
            for beta, group in zip(betas, chosen, strict=True)
            if (quartiles := group.quartiles(label))
        ]
        for beta, group, _ in known:
            values = group.values(label)
            axis.scatter([beta] * len(values), values, s=14, color="#1f6fb4", alpha=0.6)
        if known:
            at, low, median, high = zip(*((beta, *quartiles) for beta, _, quartiles in known), strict=True)
            axis.plot(at, median, color="#1f6fb4")
            axis.fill_between(at, low, high, color="#1f6fb4", alpha=0.15, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(betas, [f"{beta:g}" for beta in betas])
        axis.set_xlabel("β")
        axis.set_title(label, fontsize=10)
        tidy(axis)
    return figure


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweeps", type=Path, nargs="*", metavar="SWEEP", help="folder of a finished sweep")


def measure(run: Run) -> Iterator[DisentanglementResults]:
    if not run.args.sweeps:
        raise argparse.ArgumentTypeError("give the folder of a sweep, or --draw")
    file = RESULTS / FILE if run.args.out is None else run.args.out / Path(FILE).name
    shared: dict[str, Any] = {}
    runs: dict[str, StudyRun] = {}
    if file.exists():
        earlier = DisentanglementResults.load(file)
        shared, runs = earlier.configuration, {one.name: one for one in earlier.runs}
    for folder in run.args.sweeps:
        common, found = read_sweep(folder, str(run.origin["machine"]["kind"]))
        shared = shared or common
        check_same(shared, common)
        runs |= {one.name: one for one in found}
    ordered = tuple(one for group in groups(list(runs.values())) for one in group.runs)
    yield DisentanglementResults(**run.origin, configuration=shared, runs=ordered)


STUDY = Study(
    "benchmarks.disentanglement",
    __doc__,
    DisentanglementResults,
    FILE,
    measure,
    table,
    add_options,
    threads=False,
    draw=pictures,
    pictures=PICTURES,
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

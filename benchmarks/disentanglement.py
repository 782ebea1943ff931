"""Collects what β and the objectives do to disentanglement: ``python -m benchmarks.disentanglement FOLDER ...``.

Each FOLDER is that of a finished ``betavae-fast sweep --file benchmarks/disentanglement.toml --metrics all``, of a part
of that sweep, or of a single run after ``betavae-fast evaluate``. Their runs are added to
disentanglement/disentanglement.json, where they replace runs of the same setting and seed. Prints the medians with
quartiles, and draws the pictures into docs/disentanglement/.

With ``--out benchmarks/results/initialization``, it collects the sweep of benchmarks/initialization.toml in the same way.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from matplotlib.figure import Figure

from benchmarks import RESULTS, ROOT
from benchmarks.pages import markdown
from benchmarks.study import Run, Study, StudyError, tidy
from betavae_fast import settings
from betavae_fast.bench.results import Provenance, save_by_lines
from betavae_fast.choices import Initialization
from betavae_fast.evaluation.pictures import Line, against_setting
from betavae_fast.files import read_json
from betavae_fast.objectives import options
from betavae_fast.sweep.folder import SweepFolder
from betavae_fast.sweep.grid import SEED
from betavae_fast.sweep.report import CHANNELS, KL, RECONSTRUCTION, UDR, Quartiles, quartiles, values_of
from betavae_fast.training.config import OF_THE_MACHINE, TrainConfig
from betavae_fast.training.log import LogEntry, read_log
from betavae_fast.training.run_folder import RunFolder, read_config

FILE = "disentanglement/disentanglement.json"
PICTURES = ROOT / "docs" / "disentanglement"
MIG, DCI = "MIG", "DCI disentanglement"
MIG_IN_USE = "MIG, channels in use"
SAMPLED_RECONSTRUCTION = "reconstruction loss at a sampled code, nats"
PLATEAU = "steps until the reconstruction loss is a fifth below that of the mean image"
MILESTONES = (1000, 2000, 4000, 8000)  # steps
OF_THE_PAGE = (SAMPLED_RECONSTRUCTION, KL, CHANNELS, MIG, DCI, "FactorVAE score", UDR)
"""The quantities in the tables of docs/disentanglement.md."""
_COLUMNS = {
    RECONSTRUCTION: "rec.",
    SAMPLED_RECONSTRUCTION: "rec., sampled",
    KL: "KL",
    CHANNELS: "channels",
    MIG: "MIG",
    MIG_IN_USE: "MIG in use",
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
    PLATEAU: "plateau, steps",
    **{f"{RECONSTRUCTION}, after {steps} steps": f"rec. at {steps}" for steps in MILESTONES},
}


@dataclass(frozen=True)
class StudyRun:
    """A trained and evaluated model: its setting, its seed and precision, its losses and scores."""

    name: str
    setting: dict[str, Any]  # the objective, all its options, and the rule for the initial weights
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
        """The values of the quantity ``label``."""
        found = np.array([run.values.get(label, np.nan) for run in self.runs])
        return [float(value) for value in found[~np.isnan(found)]]

    def quartiles(self, label: str) -> Quartiles | None:
        """The quartiles of the quantity ``label``; None if no run has it."""
        return quartiles(self.values(label))


def read_folder(folder: Path, machine: str) -> tuple[dict[str, Any], list[StudyRun]]:
    """Read the settings that the runs of a sweep share, and the runs; or a single run.

    Raises: StudyError if ``folder`` is no finished sweep and no evaluated run, or its runs differ in more than setting
        and seed.
    """
    sweep, run = SweepFolder(folder), RunFolder(folder)
    if run.evaluation.exists():
        rest, found = _read_run(run, {}, machine)
        return rest, [found]
    if not sweep.table.exists():
        raise StudyError(
            f"{folder} is not the folder of a finished sweep or an evaluated run: it has no {sweep.table.name} and no "
            f"{run.evaluation.name}"
        )
    shared: dict[str, Any] = {}
    runs = []
    with sweep.table.open(newline="") as file:
        for row in csv.DictReader(file):
            rest, found = _read_run(RunFolder(folder / row["run"]), row, machine)
            shared = shared or rest
            check_same(shared, rest)
            runs.append(found)
    return shared, runs


def _read_run(folder: RunFolder, row: Mapping[str, str], machine: str) -> tuple[dict[str, Any], StudyRun]:
    """Read a run, and the settings of it that are neither its setting nor its seed nor of its machine.

    Args:
        row: the run's row in the table of its sweep, which has the UDR.
    """
    config, evaluation = read_config(folder), read_json(folder.evaluation)
    entries, own = config.entries(), options.entries(config.objective)
    setting = {name: entries[name] for name in ("objective", *own, "initialization")}
    rest = {
        name: value
        for name, value in entries.items()
        if name not in (*setting, SEED, "precision", *OF_THE_MACHINE)
    }
    values = {label: value for label, value in values_of(evaluation).items() if label in _COLUMNS}
    if row.get(UDR):
        values[UDR] = float(row[UDR])
    values |= from_log(read_log(folder.metrics), evaluation["summary"]["mean_image_reconstruction"])
    values |= from_factors(evaluation["factors"])
    values |= _in_use(evaluation["scores"])
    values[SAMPLED_RECONSTRUCTION] = evaluation["summary"]["sampled_reconstruction"]
    # The default rule for the initial weights and the objective's own defaults are not part of the name.
    name = f"{_name(setting, _not_default(setting))}, seed {config.seed}, {config.precision}"
    return rest, StudyRun(name, setting, config.seed, config.precision, machine, values)


def _not_default(setting: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The options, each with its objective, that do not have their default."""
    objective = setting["objective"]
    defaults = {one.option: one.default for one in settings.declared(options.OBJECTIVES[objective])}
    defaults["initialization"] = TrainConfig().initialization
    return {(objective, name) for name, value in setting.items() if value != defaults.get(name)}


def _in_use(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Read the MIG of the mean codes over the channels in use, if it was computed."""
    for scored in scores:
        if (scored["metric"], scored["codes"]) == ("mig", "mean") and scored["in_use"] is not None:
            return {MIG_IN_USE: scored["in_use"]["score"]["value"]}
    return {}


def from_log(log: Sequence[LogEntry], mean_image: float) -> dict[str, float]:
    """Read from a log when the run left the plateau of the mean image, and its reconstruction loss on the way.

    Args:
        mean_image: the reconstruction loss of the mean image, in nats.
    Returns: the values by their labels. The steps on the plateau are rounded up to the next entry, and infinite if the
        run did not leave it. Nothing of a run that took no step here, as with imported weights.
    """
    log = [entry for entry in log if entry.step > 0]
    if not log:
        return {}
    left = (entry.step for entry in log if has_left_plateau(entry, mean_image))
    return {PLATEAU: float(next(left, np.inf))} | {
        f"{RECONSTRUCTION}, after {entry.step} steps": entry.reconstruction
        for entry in log
        if entry.step in MILESTONES
    }


def has_left_plateau(entry: LogEntry, mean_image: float) -> bool:
    """Tell whether the reconstruction loss is a fifth below ``mean_image``, that of the mean image."""
    return entry.reconstruction < 0.8 * mean_image


def from_factors(factors: Mapping[str, Any] | None) -> dict[str, float]:
    """Read how much of each factor's entropy the channel that knows most of it knows, and the next one.

    Args:
        factors: the entry of evaluation.json, with ``names`` and ``shares``; None if the factors are not known.
    Returns: the values by their labels, over all channels.

    >>> from_factors({"names": ["posX"], "shares": [[0.1], [0.6], [0.0]]})
    {'share of posX, first channel': 0.6, 'share of posX, second channel': 0.1}
    """
    if factors is None:
        return {}
    found: dict[str, float] = {}
    for name, column in zip(factors["names"], zip(*factors["shares"], strict=True), strict=True):
        first, second = sorted((*column, 0.0), reverse=True)[:2]
        found |= {f"share of {name}, first channel": first, f"share of {name}, second channel": second}
    return found


def check_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise StudyError if two runs differ in what is neither their setting nor their seed nor their machine."""
    for name in one:
        if one[name] != other.get(name):
            raise StudyError(f"runs of one study have the same {name}, got {one[name]} and {other.get(name)}")


def groups(runs: Sequence[StudyRun]) -> list[Group]:
    """The runs by their setting, in the order of the registry and, for one objective, of its options.

    A group is named by its objective and by the options in which it differs from the other groups of that objective.
    Runs of several precisions are in groups of their own.
    """
    order, rules = list(options.OBJECTIVES), get_args(Initialization)
    several = len({run.precision for run in runs}) > 1
    by_setting: dict[tuple[str, str], list[StudyRun]] = {}
    for run in sorted(
        runs,
        key=lambda run: (
            order.index(run.setting["objective"]),
            _main(run),
            rules.index(run.setting["initialization"]),
            str(run.setting),
            run.seed,
        ),
    ):
        by_setting.setdefault((str(run.setting), run.precision), []).append(run)
    varied = _varied(runs)
    return [
        Group(_name(found[0].setting, varied) + (f", {found[0].precision}" if several else ""), found)
        for found in by_setting.values()
    ]


def _varied(runs: Sequence[StudyRun]) -> set[tuple[str, str]]:
    """The options, each with its objective, that do not have the same value in all runs of that objective."""
    found: dict[tuple[str, str], set[Any]] = {}
    for run in runs:
        for option, value in run.setting.items():
            found.setdefault((run.setting["objective"], option), set()).add(str(value))
    return {key for key, values in found.items() if len(values) > 1}


def table(results: DisentanglementResults, labels: Collection[str] = _COLUMNS) -> str:
    """The medians of all settings, with their quartiles, as Markdown.

    Args:
        labels: the quantities to show, of those that the runs have.
    """
    grouped = groups(results.runs)
    present = [
        label for label in _COLUMNS if label in labels and any(group.values(label) for group in grouped)
    ]
    rows = []
    for group in grouped:
        cells = [group.name, str(len(group.runs))]
        cells += [_in_words(label, group.values(label)) for label in present]
        rows.append(cells)
    return markdown(("setting", "seeds:", *(f"{_COLUMNS[label]}:" for label in present)), rows)


def _in_words(label: str, values: Sequence[float]) -> str:
    """The median with its quartiles, or the only value; of the steps on the plateau the median and the worst."""
    found = quartiles(values)
    if found is None:
        return ""
    if label == PLATEAU:
        return f"{found.median:.0f} (worst {max(values):.0f})"
    digits = 1 if label == KL or label.startswith("reconstruction loss") else 0 if label == CHANNELS else 2
    low, median, high = (f"{value:.{digits}f}" for value in found)
    return median if len(values) == 1 else f"{median} ({low}–{high})"


def _main(run: StudyRun) -> float:
    """The value by which the settings of an objective are sorted: its first option."""
    first = [value for value in run.setting.values() if isinstance(value, int | float)]
    return float(first[0]) if first else 0.0


def _name(setting: Mapping[str, Any], varied: Collection[tuple[str, str]]) -> str:
    """The objective, β, and the options that are ``varied``."""
    objective = setting["objective"]
    shown = []
    for name, value in setting.items():
        if name == "beta":
            shown.append(f"β = {value:g}")
        elif (objective, name) in varied and value is not None:
            shown.append(f"{name.replace('_', ' ')} = {value if isinstance(value, str) else f'{value:g}'}")
    return ", ".join([objective, *shown])


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
            axis.scatter(across, up, s=28, color=f"C{number}", label=group.name, zorder=3)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    tidy(axis)
    if axis.collections:
        figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


def _against_beta(found: Sequence[Group]) -> Figure:
    """Draw MIG and DCI of the β-VAE against β."""
    panels = {}
    for label in (MIG, DCI):
        points = [
            (group.runs[0].setting["beta"], *of_group)
            for group in found
            if group.runs[0].setting["objective"] == "beta" and (of_group := group.quartiles(label))
        ]
        if points:
            panels[label] = {"beta": Line(*np.array(points).T)}
    return against_setting("β", panels) if panels else Figure()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="FOLDER",
        help="folder of a finished sweep or an evaluated run",
    )


def measure(run: Run) -> Iterator[DisentanglementResults]:
    if not run.args.folders:
        raise argparse.ArgumentTypeError("give the folder of a sweep or a run, or --draw")
    file = RESULTS / FILE if run.args.out is None else run.args.out / Path(FILE).name
    shared: dict[str, Any] = {}
    runs: dict[Any, StudyRun] = {}
    if file.exists():
        earlier = DisentanglementResults.load(file)
        shared, runs = earlier.configuration, {_key(one): one for one in earlier.runs}
    for folder in run.args.folders:
        common, found = read_folder(folder, str(run.origin["machine"]["kind"]))
        shared = shared or common
        check_same(shared, common)
        runs |= {_key(one): one for one in found}
    ordered = tuple(one for group in groups(list(runs.values())) for one in group.runs)
    yield DisentanglementResults(**run.origin, configuration=shared, runs=ordered)


def _key(run: StudyRun) -> tuple[Any, ...]:
    """The key of a run: a later run with the same key replaces it, on whatever machine it was trained."""
    return (*sorted(run.setting.items()), run.seed, run.precision)


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

"""Reports on a sweep: a table of all runs, and one page that compares their settings.

Nothing in them depends on time, so a sweep that was interrupted leaves what an undisturbed one leaves.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from betavae_fast.data.images import ImageDataset
from betavae_fast.evaluation import DCI_ROWS, pictures
from betavae_fast.evaluation.encoding import encode
from betavae_fast.evaluation.metrics import udr_scores
from betavae_fast.evaluation.report import render
from betavae_fast.evaluation.scores import METRICS
from betavae_fast.evaluation.summary import choose_images
from betavae_fast.files import atomic_writer, read_json
from betavae_fast.sweep.folder import SweepFolder, dci_rows
from betavae_fast.sweep.grid import SEED, SweptRun
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.run_folder import read_config
from betavae_fast.training.trained_run import open_run

RECONSTRUCTION, KL, CHANNELS, UDR = "reconstruction loss, nats", "KL, nats", "channels used", "UDR"
HELD_OUT = {
    "held-out negative ELBO, nats": "negative_elbo",
    "held-out reconstruction loss, nats": "reconstruction",
    "held-out KL, nats": "kl",
}
"""The losses of held-out images, and their names in evaluation.json."""
SAMPLED = "(sampled codes)"
_SAMPLE = 4096  # images whose codes UDR compares
_DCI = {quantity.label for quantity in METRICS["dci"].quantities}


@dataclass(frozen=True)
class Result:
    """The result of a run: its losses and scores by their labels."""

    run: SweptRun
    values: dict[str, float]


class Quartiles(NamedTuple):
    """The quartiles of a quantity over the runs of one setting."""

    low: float
    median: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles | None:
    """The quartiles of ``values``, which may be infinite; None if there is none, or one is undefined (NaN)."""
    if not len(values) or np.isnan(values).any():
        return None
    # Between an infinite value and another one there is nothing to interpolate.
    finite = np.isfinite(values).all()
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75), method="linear" if finite else "higher")
    return Quartiles(float(low), float(median), float(high))


@dataclass(frozen=True)
class Group:
    """The runs of one setting, which differ by their seeds."""

    setting: dict[str, Any]
    results: list[Result]

    @property
    def name(self) -> str:
        return _in_words(self.setting)

    def quartiles(self, label: str) -> Quartiles | None:
        """The quartiles of the quantity ``label``; None if a run lacks it."""
        found = quartiles([result.values.get(label, np.nan) for result in self.results])
        return found if found is not None and isfinite(found.median) else None


@dataclass(frozen=True)
class Findings:
    """All finished runs of a sweep."""

    results: list[Result]

    @cached_property
    def labels(self) -> list[str]:
        """The quantities that runs have, in the order of the tables."""
        return list(dict.fromkeys(label for result in self.results for label in result.values))

    @cached_property
    def groups(self) -> list[Group]:
        by_setting = groupby(self.results, lambda result: result.run.setting)
        return [Group(setting, list(results)) for setting, results in by_setting]

    @property
    def peers(self) -> list[list[Result]]:
        """The results that UDR compares with each other.

        These are the runs of one setting (Duan et al. 2020), so the time grows with the number of settings, not with its
        square. If a setting has a single run, all runs are compared.
        """
        if all(len(group.results) > 1 for group in self.groups):
            return [group.results for group in self.groups]
        return [self.results]

    def correlation_with_udr(self, label: str) -> float | None:
        """Spearman's rank correlation of UDR with the quantity ``label`` over all runs; None if it is undefined."""
        from scipy.stats import spearmanr  # half a second to import

        pairs = [[result.values.get(name, np.nan) for name in (UDR, label)] for result in self.results]
        one, two = np.array(pairs).T
        if not (np.isfinite(one) & np.isfinite(two)).all() or len(set(one)) < 2 or len(set(two)) < 2:
            return None
        return float(spearmanr(one, two).statistic)

    @property
    def best(self) -> Result | None:
        """The run with the highest UDR, a choice without known factors. None if no run has one above 0."""
        candidates = [result for result in self.results if result.values.get(UDR, 0) > 0]
        return max(candidates, key=lambda result: result.values[UDR], default=None)

    def rank(self, result: Result, label: str) -> int | None:
        """The place of ``result`` among all runs by the quantity ``label``, from the largest; 1 is the first. None if it
        has none."""
        value = result.values.get(label, np.nan)
        if not isfinite(value):
            return None
        return 1 + sum(other.values.get(label, -np.inf) > value for other in self.results)


def write(folder: SweepFolder, finished: Sequence[SweptRun], missing: Sequence[str]) -> Path:
    """Write runs.csv and report.html about the ``finished`` runs of a sweep, at least one; ``missing`` names the others.

    Returns: the path of report.html.
    Raises: the errors of :func:`open_run`; OSError if nothing can be written.
    """
    found = collect(folder, finished)
    _write_table(folder.table, found)
    colours = _colours(len(found.groups))
    drawn = []
    if setting := widest_setting(found):
        pictures.save(pictures.against_setting(setting, lines(found, setting)), folder.picture)
        drawn = [folder.picture]
    render(
        folder.report,
        "sweep.html.jinja",
        drawn,
        title=f"A sweep of {len(finished) + len(missing)} runs: {folder.path.resolve().name}",
        found=found,
        groups=list(zip(found.groups, colours, strict=True)),
        points=_points(found, colours),
        missing=missing,
        trained=_trained(folder, finished),
    )
    return folder.report


def _trained(folder: SweepFolder, runs: Sequence[SweptRun]) -> str:
    """Say in a sentence how the runs were trained; of a setting that varies, all values."""
    configs = [read_config(folder.run(run)) for run in runs]

    def values(of: Callable[[TrainConfig], object]) -> str:
        return " or ".join(dict.fromkeys(str(of(config)) for config in configs))

    steps, batch, data = (
        values(of) for of in (lambda c: f"{c.steps:,}", lambda c: c.batch_size, lambda c: Path(c.data).name)
    )
    network = values(lambda c: f"{c.architecture} with {c.latent_dim} channels, {c.describe_likelihood()}")
    return f"Each run took {steps} steps of {batch} images of {data} ({network}) in {values(lambda c: c.precision)}."


def collect(folder: SweepFolder, runs: Sequence[SweptRun]) -> Findings:
    """Read the results of ``runs``, which are finished; several get a UDR if they share their data."""
    documents = [read_json(folder.run(run).evaluation) for run in runs]
    results = [Result(run, _values_by_rows(document)) for run, document in zip(runs, documents, strict=True)]
    found = Findings(results)
    if len(results) > 1 and len({str(document["identity"]) for document in documents}) == 1:
        codes = dict(zip((run.name for run in runs), _codes(folder, runs), strict=True))
        kls = {run.name: _kl_per_dim(document) for run, document in zip(runs, documents, strict=True)}
        for peers in found.peers:
            names = [result.run.name for result in peers]
            scores = udr_scores(
                [codes[name] for name in names], [kls[name] for name in names], np.random.default_rng(0)
            ).scores
            for result, udr in zip(peers, scores, strict=True):
                result.values[UDR] = float(udr)
    return found


def widest_setting(found: Findings) -> str | None:
    """The setting that has the most values, of those whose values are numbers. None if none varies."""
    values: dict[str, set[float]] = {}
    for group in found.groups:
        for name, value in group.setting.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, set()).add(value)
    widest = max(values, key=lambda name: len(values[name]), default=None)
    return widest if widest is not None and len(values[widest]) > 1 else None


def lines(found: Findings, setting: str) -> dict[str, dict[str, pictures.Line]]:
    """For each quantity of the mean codes, a line over the values of ``setting`` for each choice of the others."""
    panels: dict[str, dict[str, pictures.Line]] = {}
    for label in (label for label in found.labels if SAMPLED not in label):
        points: dict[str, list[tuple[float, ...]]] = {}
        for group in found.groups:
            if quartiles := group.quartiles(label):
                rest = {name: value for name, value in group.setting.items() if name != setting}
                point = (group.setting.get(setting, np.nan), *quartiles)
                points.setdefault(_in_words(rest), []).append(point)
        panels[label] = {name: pictures.Line(*np.array(sorted(line)).T) for name, line in points.items()}
    return {label: lines for label, lines in panels.items() if lines}


def _in_words(setting: Mapping[str, Any]) -> str:
    words = (f"{value:g}" if isinstance(value, float) else f"{value}" for value in setting.values())
    return ", ".join(map(" ".join, zip(setting, words, strict=True))) or "all runs"


def values_of(document: dict[str, Any]) -> dict[str, float]:
    """The losses and scores in an evaluation.json: the loss at the mean code, the scores over all channels.

    Of held-out images, if there are any, the negative ELBO is added, which is at a sampled code.
    """
    summary = document["summary"]
    values = {
        RECONSTRUCTION: summary["reconstruction"],
        KL: summary["kl"],
        CHANNELS: float(sum(channel["active"] for channel in summary["channels"])),
    }
    if (held_out := document.get("held_out")) is not None:
        values |= {label: held_out[name] for label, name in HELD_OUT.items()}
    for scored in document["scores"]:
        codes = "" if scored["codes"] == "mean" else f" {SAMPLED}"
        for quantity in METRICS[scored["metric"]].quantities:
            values[quantity.label + codes] = scored["values"][quantity.attribute]["value"]
    return values


def _values_by_rows(document: dict[str, Any]) -> dict[str, float]:
    """The losses and scores in an evaluation.json. DCI from another number of rows than the published has it in its name.

    Such a score is another quantity: a sweep that computes no DCI keeps that of ``betavae-fast evaluate``.
    """
    rows, values = dci_rows(document), values_of(document)
    if rows in (None, DCI_ROWS):
        return values
    return {f"{label}, {rows} rows" if label in _DCI else label: value for label, value in values.items()}


def _codes(folder: SweepFolder, runs: Sequence[SweptRun]) -> Iterator[NDArray[np.float32]]:
    """The mean codes of the same images in each run."""
    images: dict[object, ImageDataset] = {}
    for run in runs:
        trained = open_run(folder.run(run).path)
        dataset = trained.images(images)
        yield encode(trained.model, dataset, choose_images(len(dataset), _SAMPLE)).mean_codes


def _kl_per_dim(document: Mapping[str, Any]) -> NDArray[np.float64]:
    """The KL of each channel in an evaluation.json."""
    channels = sorted(document["summary"]["channels"], key=lambda channel: channel["index"])
    return np.array([channel["kl"] for channel in channels])


def _write_table(path: Path, found: Findings) -> None:
    settings = list(dict.fromkeys(name for result in found.results for name in result.run.setting))
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["run", *settings, SEED, *found.labels])
    for result in found.results:
        run = result.run
        values = [result.values.get(label, "") for label in found.labels]
        table.writerow(
            [run.name, *(run.setting.get(name, "") for name in settings), run.config.seed, *values]
        )
    with atomic_writer(path) as file:
        file.write(text.getvalue().encode())


class _Point(NamedTuple):
    """A run in the drawing of reconstruction against KL, whose sides are 0 to 1."""

    x: float
    y: float
    colour: str
    result: Result


def _points(found: Findings, colours: Sequence[str]) -> list[_Point]:
    rates = _scaled([result.values[KL] for result in found.results])
    losses = _scaled([result.values[RECONSTRUCTION] for result in found.results])
    by_run = [colour for colour, group in zip(colours, found.groups, strict=True) for _ in group.results]
    return [
        _Point(x, 1 - y, colour, result)
        for x, y, colour, result in zip(rates, losses, by_run, found.results, strict=True)
    ]


def _colours(count: int) -> list[str]:
    """Different colours, as CSS writes them."""
    return [f"hsl({360 * i / count:.0f} 65% 42%)" for i in range(count)]


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [0.5 if high == low else (value - low) / (high - low) for value in values]

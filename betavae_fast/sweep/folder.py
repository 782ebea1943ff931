"""The folder of a sweep: its layout, and which of its runs are finished."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from betavae_fast.choices import MetricName, Precision
from betavae_fast.data import DataIdentity
from betavae_fast.evaluation import DCI_ROWS, FORMAT
from betavae_fast.evaluation.scores import METRICS
from betavae_fast.files import read_json
from betavae_fast.sweep.grid import SweptRun
from betavae_fast.training.checkpoint import Checkpoint
from betavae_fast.training.resume import read_run
from betavae_fast.training.run_folder import RunFolder
from betavae_fast.training.validation import absolute_paths, out_of_patience

ADOPTED = ("steps", "threads", "device", "log_every", "checkpoint_every")
"""The settings that a run which goes on takes from the sweep. In all others it must be the sweep's from the start."""


@dataclass(frozen=True)
class SweepFolder:
    """The layout of a sweep's folder.

    NAME/                the folder of each run, as ``betavae-fast train`` and ``evaluate`` leave it
    runs.csv             a row for each run: its settings, losses and scores
    against-setting.png  losses and scores against a setting that is a number, if one varies
    report.html          what the sweep shows, as one page, with links to the runs' own
    """

    path: Path

    def run(self, run: SweptRun) -> RunFolder:
        return RunFolder(self.path / run.name)

    @property
    def table(self) -> Path:
        return self.path / "runs.csv"

    @property
    def picture(self) -> Path:
        return self.path / "against-setting.png"

    @property
    def report(self) -> Path:
        return self.path / "report.html"


class Standing(NamedTuple):
    """The progress of a run: its steps, whether it is trained and evaluated, and its precision if it has begun."""

    step: int = 0
    finished: bool = False
    precision: Precision | None = None


def standing(folder: RunFolder, run: SweptRun, metrics: Collection[MetricName]) -> Standing:
    """Find out how far the run in ``folder`` is.

    It is finished if the model of its last step is evaluated by ``metrics`` as the sweep does it. A run without patience
    ends earlier.

    Raises: ValueError if the folder holds a run with other settings or more steps; RunFileError if that run is damaged.
    """
    if not folder.config.exists():
        return Standing()
    config, checkpoint = read_run(folder)
    step = 0 if checkpoint is None else checkpoint.step
    found = config.entries()
    wanted = absolute_paths(run.config).entries()
    # A run stores what "auto" has come to.
    others = [
        f"{name} {found.get(name)}"
        for name, value in wanted.items()
        if name not in ADOPTED and value not in (found.get(name), "auto")
    ]
    if step > run.config.steps:
        others.append(f"{step} steps")
    elif step > 0 and config.lr_schedule == "cosine" and config.steps != run.config.steps:
        others.append(f"a learning rate that falls over {config.steps} steps, not {run.config.steps}")
    if others:
        raise ValueError(f"{folder.path} holds a run with {', '.join(others)}; give the sweep another --out")
    if checkpoint is None:
        return Standing(step, False, config.precision)
    trained = step == run.config.steps or out_of_patience(config, checkpoint.best)
    finished = trained and _is_evaluated(folder, checkpoint, metrics)
    return Standing(step, finished, config.precision)


def dci_rows(document: Mapping[str, Any]) -> int | None:
    """The number of rows that DCI's classifiers learned from, in an evaluation.json; None if it has no DCI."""
    for scored in document["scores"]:
        if scored["metric"] == "dci":
            return int(
                scored["result"].get("rows", DCI_ROWS)
            )  # without them, a version that had no other number
    return None


def _is_evaluated(folder: RunFolder, checkpoint: Checkpoint, metrics: Collection[MetricName]) -> bool:
    """True if evaluation.json is what the sweep would make of the model of ``checkpoint``.

    So it is about all images of the run, with the seed 0, and has those of ``metrics`` that the data allow, DCI from as
    many rows as in published scores. It may have other metrics as well.
    """
    if not folder.evaluation.exists():
        return False
    document = read_json(folder.evaluation)
    if document.get("format") != FORMAT:
        return False
    identity = DataIdentity.from_json(document["identity"])
    known = document["factors"] or checkpoint.config.factors is not None
    needed = {name for name in metrics if known or not METRICS[name].needs_factors}
    return (
        (document["step"], document["seed"]) == (checkpoint.step, 0)
        and document["images"] == identity.images
        and checkpoint.data in (None, identity)
        and needed <= {scored["metric"] for scored in document["scores"]}
        and ("dci" not in needed or dci_rows(document) == DCI_ROWS)
    )

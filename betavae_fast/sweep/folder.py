"""The folder of a sweep: its layout, and which of its runs are finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from betavae_fast.sweep.grid import SweptRun
from betavae_fast.training.config import RESUMABLE
from betavae_fast.training.resume import read_run
from betavae_fast.training.run_folder import RunFolder


@dataclass(frozen=True)
class SweepFolder:
    """The layout of a sweep's folder.

    NAME/         the folder of each run, as ``betavae-fast train`` and ``evaluate`` leave it
    runs.csv      a row for each run: its settings, losses and scores
    report.html   what the sweep shows, as one page, with links to the runs' own
    """

    path: Path

    def run(self, run: SweptRun) -> RunFolder:
        return RunFolder(self.path / run.name)

    @property
    def table(self) -> Path:
        return self.path / "runs.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"


def is_finished(folder: RunFolder, run: SweptRun) -> bool:
    """True if the run in ``folder`` has taken all its steps and is evaluated.

    Raises: ValueError if there is a run with other settings in the folder; RunFileError if it is damaged.
    """
    if not folder.config.exists():
        return False
    config, checkpoint = read_run(folder)
    # A run stores what "auto" has come to.
    others = [
        name
        for name, value in run.config.entries().items()
        if name not in RESUMABLE and value not in (config.entries().get(name), "auto")
    ]
    if others:
        found = ", ".join(f"{name} {config.entries().get(name)}" for name in others)
        raise ValueError(f"{folder.path} holds a run with {found}; give the sweep another --name")
    return checkpoint is not None and checkpoint.step >= run.config.steps and folder.evaluation.exists()

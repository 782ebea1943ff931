"""The messages between a sweep and the processes that train its runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from betavae_fast.choices import MetricName
from betavae_fast.sweep.grid import SweptRun
from betavae_fast.training.log import LogEntry


@dataclass(frozen=True)
class Task:
    """A run to train, in ``folder``, and to evaluate. A run that is begun there goes on after its checkpoint."""

    run: SweptRun
    folder: Path
    metrics: tuple[MetricName, ...]


@dataclass(frozen=True)
class Progress:
    """The state of a run that goes on: its steps done, and its last log entry."""

    step: int
    entry: LogEntry | None = None
    doing: Literal["training", "evaluating"] = "training"


@dataclass(frozen=True)
class Ended:
    """The end of a run's process.

    Attributes:
        how: "finished": trained and evaluated; "failed": by the run's own fault, as ``error`` says; "stopped": on
            request, and saved; "killed": from outside.
    """

    how: Literal["finished", "failed", "stopped", "killed"]
    error: str = ""


class Watcher(Protocol):
    """Is told what happens to the runs of a sweep."""

    def on_progress(self, run: SweptRun, progress: Progress) -> None: ...

    def on_end(self, run: SweptRun, ended: Ended) -> None: ...

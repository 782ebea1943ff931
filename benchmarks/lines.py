"""Runs commands (lines) one after the other, each with its own time limit, and keeps their state on disk at all times.

``log.txt`` gets their output as it is written. ``summary.json`` is written atomically whenever a command begins or ends.
A command reports its failures in output lines that begin with FAILED, as pytest does.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import ROOT
from benchmarks.processes import GRACE_SECONDS, started
from betavae_fast.files import read_json, write_json

# Also matches pytest's "[gw3] [ 40%] FAILED tests/…" after a test, and "FAILED tests/… - reason" in its summary.
_FAILED = re.compile(r"^(?:\[gw\d+\] \[ *\d+%\] )?(?:FAILED|ERROR) (\S.*?)\s*$", re.MULTILINE)
_NOT_REACHED, _RUNNING = "not reached", "running"
# In less time, a command gets no further than its imports.
_LEAST_SECONDS = 15.0


@dataclass(frozen=True)
class Line:
    """A command.

    Args:
        limit: the seconds after which it has ended, including the time to write its results after a signal.
        environment: variables added to those of this process.
        missing: reason why it cannot run here, or "".
        interrupted_for: seconds to end after SIGINT; if 0, it gets SIGTERM at once.
        results: files that it writes -> paths for their copies.
    """

    name: str
    command: Sequence[str]
    limit: float
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""
    interrupted_for: float = 0.0
    results: Mapping[Path, Path] = field(default_factory=dict)


@dataclass
class Outcome:
    """The verdict on a line, its duration in seconds, and its failures.

    Args:
        failures: the failures that the line itself reported.
    """

    name: str
    verdict: str = _NOT_REACHED
    failed: bool = True
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


class Record:
    """The log and the summary in a folder. Entries of other lines, from an earlier call, are kept."""

    def __init__(self, folder: Path, lines: Sequence[Line], about: Mapping[str, object]) -> None:
        self.log = folder / "log.txt"
        self._summary = folder / "summary.json"
        self._about = about
        self.outcomes = {line.name: Outcome(line.name) for line in lines}
        before = read_json(self._summary)["lines"] if self._summary.exists() else []
        self._before = [entry for entry in before if entry["name"] not in self.outcomes]
        self.save()

    def save(self) -> None:
        entries = [*self._before, *self.outcomes.values()]
        write_json(self._summary, {**self._about, "lines": entries})

    def text(self) -> str:
        """The verdict on each command, followed by one line for each failure."""
        width = max(map(len, self.outcomes), default=0)
        table = [f"{o.name:{width}}  {o.seconds:5.0f} s  {o.verdict}" for o in self.outcomes.values()]
        failures = [
            f"FAILED {o.name}: {what}"
            for o in self.outcomes.values()
            if o.failed
            for what in o.failures or [o.verdict]
        ]
        return "\n".join([*table, *(failures or ["Nothing failed."])])

    @property
    def failed(self) -> bool:
        return any(outcome.failed for outcome in self.outcomes.values())


def run_all(lines: Sequence[Line], record: Record, seconds: float) -> None:
    """Run the lines within ``seconds`` in total. A line that would begin too late is left out and counts as failed.

    The record is up to date even if the run ends by Ctrl-C or by an exception from a signal handler.
    """
    deadline = time.monotonic() + seconds
    for line in lines:
        outcome = record.outcomes[line.name]
        if line.missing:
            outcome.verdict, outcome.failed = f"left out: {line.missing}", False
        elif (left := deadline - time.monotonic()) < min(line.limit, _LEAST_SECONDS):
            outcome.verdict = f"left out: the {seconds:g} s of this call were over"
        else:
            _run(line, min(line.limit, left), record)
        record.save()


def _run(line: Line, limit: float, record: Record) -> None:
    outcome = record.outcomes[line.name]
    outcome.verdict = _RUNNING
    record.save()
    print(f"== {line.name} (at most {limit:.0f} s)", flush=True)
    start = time.monotonic()
    with record.log.open("ab") as log:
        log.write(f"\n== {line.name}: {' '.join(line.command)}\n".encode())
        log.flush()
        beginning = log.tell()
        environment = {"PYTHONUNBUFFERED": "1", "COLUMNS": "160", **line.environment}
        status, verdict = 1, "stopped with the whole run"
        try:
            with started(
                line.command, ROOT, environment, log, interrupted_for=line.interrupted_for
            ) as process:
                grace = line.interrupted_for + GRACE_SECONDS
                try:
                    status = process.wait(max(limit - grace, limit / 2))
                    verdict = "passed" if status == 0 else f"failed with exit status {status}"
                except subprocess.TimeoutExpired:
                    verdict = f"stopped after its {limit:.0f} s"
        finally:
            said = record.log.read_bytes()[beginning:].decode(errors="replace")
            outcome.failures = list(dict.fromkeys(found.split(" - ")[0] for found in _FAILED.findall(said)))
            outcome.verdict, outcome.failed = verdict, status != 0
            outcome.seconds = round(time.monotonic() - start, 1)
            _keep_copies(line.results)
            record.save()
            print(f"   {verdict} ({outcome.seconds:.0f} s)", flush=True)


def _keep_copies(results: Mapping[Path, Path]) -> None:
    for written, belongs in results.items():
        if written.exists():
            belongs.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(written, belongs)

"""Compares an op at this checkout with the same op at an earlier commit: ``python -m benchmarks latent --base REV``.

The commit is checked out in a folder of its own, and both are built. Then they are measured in turns, each time in a new
process that checks parity first. Runs of the same code differ by noise, so a change counts only if all runs of one commit
are faster than all runs of the other.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import ROOT
from benchmarks.processes import started
from betavae_fast.bench.units import seconds, times
from betavae_fast.files import read_json

RUNS = 5
# Medians of separate processes may differ by this much on a quiet machine, even if their ranges do not overlap.
_LEAST_CHANGE = 0.03
# For example "(65536, 128) fp32 backward, cpp".
Key = str
Medians = Mapping[Key, float]


class BaseError(Exception):
    """The commit cannot be measured; the message says why."""


@dataclass(frozen=True)
class Change:
    """A measurement made at both commits: the medians of the runs' medians, in seconds."""

    key: Key
    base: float
    here: float
    beyond_noise: bool

    @property
    def ratio(self) -> float:
        return self.here / self.base

    @property
    def regression(self) -> bool:
        return self.beyond_noise and self.ratio > 1


def compare(base: Sequence[Medians], here: Sequence[Medians]) -> list[Change]:
    """The changes of everything that both commits measured, from the runs of each."""
    common = [key for key in here[0] if key in base[0]]
    return [_change(key, [run[key] for run in base], [run[key] for run in here]) for key in common]


def _change(key: Key, base: list[float], here: list[float]) -> Change:
    apart = min(here) > max(base) or max(here) < min(base)
    medians = statistics.median(base), statistics.median(here)
    large = abs(medians[1] / medians[0] - 1) > _LEAST_CHANGE
    return Change(key, *medians, beyond_noise=apart and large)


def against(revision: str, options: Sequence[str]) -> list[Change]:
    """Measure ``python -m benchmarks OPTIONS`` here and at ``revision``, in turn.

    Raises: BaseError if that is not possible.
    """
    with _ended_by_sigterm(), _checkout(revision) as folder:
        taken: dict[Path, list[Medians]] = {folder: [], ROOT: []}
        for _ in range(RUNS):
            for tree, medians in taken.items():
                medians.append(_measure(tree, options))
    changes = compare(taken[folder], taken[ROOT])
    if not changes:
        raise BaseError(f"nothing was measured both here and at {revision}")
    return changes


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM leave the block by an exception, as Ctrl-C does, so that temporary folders are removed."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _checkout(revision: str) -> Iterator[Path]:
    """Unpack the commit into a folder of its own, and build it and this checkout."""
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit.returncode:
        raise BaseError(f"{revision} is no commit of this checkout")
    with tempfile.TemporaryDirectory(prefix="betavae-fast-base-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        archive = _git("archive", "--format=tar", commit.stdout.decode().strip())
        if archive.returncode:
            raise BaseError(archive.stderr.decode().strip())
        subprocess.run(["tar", "--extract", "--directory", folder], input=archive.stdout, check=True)
        for tree in (folder, ROOT):
            _run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], tree)
        yield folder


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)


def _measure(tree: Path, options: Sequence[str]) -> Medians:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        _run([sys.executable, "-m", "benchmarks", *options, "--out", str(out)], tree)
        rows = read_json(out)["measurements"]  # also of a commit whose files hold other fields
    return {
        f"{tuple(row['shape'])} {row['dtype']} {row['direction']}, {row['contender']}": row["p50"]
        for row in rows
    }


def _run(command: Sequence[str], tree: Path) -> None:
    with started(command, tree, {"PYTHONPATH": str(tree)}, subprocess.PIPE) as process:
        output, _ = process.communicate()
    if process.returncode:
        said = output.strip().splitlines()
        raise BaseError(
            f"{' '.join(command[1:])} failed in {tree}: {said[-1] if said else process.returncode}"
        )


def show(changes: Sequence[Change], revision: str, console: Console) -> None:
    table = Table("", revision, "here", "ratio", "")
    for change in changes:
        verdict = ""
        if change.beyond_noise:
            verdict = "[red]slower[/]" if change.regression else "[green]faster[/]"
        table.add_row(change.key, seconds(change.base), seconds(change.here), times(change.ratio), verdict)
    console.print(table)

"""The result file: everything a reader needs to believe a figure, or to measure it again.

Times are in seconds, sizes in bytes, bandwidths in GB/s (10⁹ bytes). A file holds one op on one kind of machine. It
contains the command that writes it anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from betavae_fast.bench.parity import Error
from betavae_fast.bench.registry import Shape
from betavae_fast.files import write_json


@dataclass(frozen=True)
class Provenance:
    """The origin of a result file: the command that measures the same again, and ``machine.provenance``."""

    command: str
    date: str
    commit: dict[str, object]
    machine: dict[str, object]
    versions: dict[str, str | None]


@dataclass(frozen=True)
class Measurement:
    """One contender in one direction of one problem.

    Args:
        bytes, transcendentals, arithmetic, integer: the least that any implementation moves and computes in total.
        gigabytes_per_second: ``bytes`` over p50.
        copy_gigabytes_per_second: bandwidth of a copy too large for any cache, measured in the same rounds.
        floor_ratio: p50 over the time in which that copy moves ``bytes``.
        cache_copy_gigabytes_per_second, cache_floor_ratio: the same for a copy of ``bytes`` if the problem's
            tensors fit into the last-level cache, else None.
        speedup_over_eager, speedup_over_compile: p50 of eager, or of torch.compile's fastest mode, over this p50;
            None if it did not run.
        peak_bytes: most bytes allocated at one time besides the inputs, outputs included; None in files older than
            the field.
        launches: number of kernels, copies and fills of one call on a GPU; None on a CPU.
    """

    op: str
    shape: Shape
    dtype: str
    direction: str
    contender: str
    p20: float
    p50: float
    p80: float
    samples: int
    calls_per_sample: int
    bytes: int
    transcendentals: int
    arithmetic: int
    integer: int
    gigabytes_per_second: float
    copy_gigabytes_per_second: float
    floor_ratio: float
    cache_copy_gigabytes_per_second: float | None
    cache_floor_ratio: float | None
    speedup_over_eager: float | None
    speedup_over_compile: float | None
    peak_bytes: int | None = None
    launches: int | None = None


@dataclass(frozen=True)
class CheckedProblem:
    """A problem whose contenders were compared.

    Args:
        errors: the errors against float64 of the contenders that were timed.
        absent: the contenders that did not take part, each with the reason.
        failed: the contenders that raised an error or computed something else, each with the reason; they are not timed.
    """

    op: str
    shape: Shape
    dtype: str
    errors: tuple[Error, ...]
    absent: dict[str, str]
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """A result file.

    Args:
        left_out: the problems of the configuration that were not measured, each with the reason. If the run was stopped,
            the problems it had not reached are among them.
    """

    op: str
    command: str
    date: str
    commit: dict[str, object]
    machine: dict[str, object]
    versions: dict[str, str | None]
    configuration: dict[str, object]
    parity: tuple[CheckedProblem, ...]
    measurements: tuple[Measurement, ...]
    left_out: dict[str, str]

    @property
    def failures(self) -> list[str]:
        """A line for each contender that failed, with its problem and the reason."""
        return [
            f"{p.op} {p.shape} {p.dtype}: {name}: {why}"
            for p in self.parity
            for name, why in p.failed.items()
        ]

    @property
    def file_name(self) -> str:
        return f"{self.op}-{self.machine['kind']}.json"

    def save(self, path: Path) -> None:
        write_json(path, self)


def check_writable(path: Path) -> None:
    """Make the folder of ``path`` and check, before anything is measured, that a file can be written there.

    Raises: OSError if it cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    with TemporaryFile(dir=path.parent):
        pass


def load(path: Path) -> Results:
    """Read a result file. Raises: TypeError if a field is missing or unknown."""
    document = json.loads(path.read_text(encoding="utf-8"))
    parity = tuple(_checked_problem(entry) for entry in document.pop("parity"))
    measurements = tuple(_record(Measurement, entry) for entry in document.pop("measurements"))
    return Results(parity=parity, measurements=measurements, **document)


def load_all(folder: Path) -> dict[str, Results]:
    return {path.name: load(path) for path in sorted(folder.glob("*.json"))}


def _checked_problem(entry: dict[str, Any]) -> CheckedProblem:
    errors = tuple(_record(Error, error) for error in entry.pop("errors"))
    problem: CheckedProblem = _record(CheckedProblem, entry | {"errors": errors})
    return problem


def _record(kind: type, entry: dict[str, Any]) -> Any:
    """Make a dataclass from the JSON of its fields; lists become the tuples they were."""
    if unknown := entry.keys() - {f.name for f in fields(kind)}:
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})

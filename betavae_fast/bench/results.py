"""The result files: everything a reader needs to believe a figure, or to measure it again.

Times are in seconds, sizes in bytes, bandwidths in GB/s (10⁹ bytes). A file contains the command that writes it anew.
Figures that follow from others are not in it but properties of its class.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from betavae_fast.bench.parity import Error
from betavae_fast.bench.registry import Shape
from betavae_fast.bench.timing import Timing
from betavae_fast.files import atomic_writer, jsonable, read_json, write_json

R = TypeVar("R", bound="Provenance")


@dataclass(frozen=True)
class Provenance:
    """A result file: the command that measures the same again, and ``machine.provenance``. Results derive from it."""

    command: str
    date: str
    commit: dict[str, object]
    machine: dict[str, object]
    versions: dict[str, str | None]

    @property
    def failures(self) -> list[str]:
        """A line for everything that failed: it was to be measured and was not, or does not hold."""
        return []

    @property
    def measured(self) -> bool:
        """False if there is nothing to write."""
        return True

    def save(self, path: Path) -> None:
        write_json(path, self)

    @classmethod
    def load(cls: type[R], path: Path) -> R:
        """Read a result file.

        Raises: OSError if it cannot be read; ValueError, naming it, if a field is missing, unknown or of another type.
        """
        document = read_json(path)
        try:
            results: R = _of_type(cls, document)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a result file: {error}") from error
        return results


@dataclass(frozen=True)
class Measurement(Timing):
    """One contender in one direction of one problem.

    Args:
        bytes, transcendentals, arithmetic, integer: the least that any implementation moves and computes in total.
        copy_gigabytes_per_second: bandwidth of a copy too large for any cache, measured in the same rounds.
        cache_copy_gigabytes_per_second: the same for a copy of ``bytes`` if the problem's tensors fit into the
            last-level cache, else None.
        peak_bytes: most bytes allocated at one time besides the inputs, outputs included; None in files older than
            the field.
        launches: number of kernels, copies and fills of one call on a GPU; None on a CPU.
    """

    op: str
    shape: Shape
    dtype: str
    direction: str
    contender: str
    bytes: int
    transcendentals: int
    arithmetic: int
    integer: int
    copy_gigabytes_per_second: float
    cache_copy_gigabytes_per_second: float | None
    peak_bytes: int | None = None
    launches: int | None = None

    @property
    def gigabytes_per_second(self) -> float:
        """``bytes`` over p50."""
        return self.bytes / self.p50 * 1e-9

    @property
    def floor_ratio(self) -> float:
        """p50 over the time in which the copy moves ``bytes``."""
        return self.copy_gigabytes_per_second / self.gigabytes_per_second

    @property
    def cache_floor_ratio(self) -> float | None:
        """The same for the copy in the cache, or None."""
        copy = self.cache_copy_gigabytes_per_second
        return None if copy is None else copy / self.gigabytes_per_second


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
class Results(Provenance):
    """The result file of one op on one kind of machine.

    Args:
        left_out: the problems of the configuration that were not measured, each with the reason. If the run was stopped,
            the problems it had not reached are among them.
    """

    op: str
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
    def measured(self) -> bool:
        return bool(self.measurements)

    def speedup(self, measurement: Measurement, over: str) -> float | None:
        """The speed-up over "eager", or over torch.compile's fastest mode ("compile"); None if it did not run.

        It is the p50 of the fastest contender whose name begins with ``over``, in the same rounds, over this p50.
        """
        rounds = (measurement.shape, measurement.dtype, measurement.direction)
        others = [
            m.p50
            for m in self.measurements
            if (m.shape, m.dtype, m.direction) == rounds and m.contender.startswith(over)
        ]
        return min(others) / measurement.p50 if others else None


def save_by_lines(results: Provenance, path: Path, first: str) -> None:
    """Write a result file with a line for each entry whose first field is ``first``; every number of their lists would
    otherwise take a line."""
    text = json.dumps(jsonable(results), ensure_ascii=False, allow_nan=False)
    with atomic_writer(path) as file:
        file.write((text.replace(f'{{"{first}"', f'\n{{"{first}"') + "\n").encode())


def check_writable(path: Path) -> None:
    """Make the folder of ``path`` and check, before anything is measured, that a file can be written there.

    Raises: OSError if it cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    with TemporaryFile(dir=path.parent):
        pass


def load_all(folder: Path) -> dict[str, Results]:
    return {path.name: Results.load(path) for path in sorted(folder.glob("*.json"))}


def _of_type(hint: Any, value: Any) -> Any:
    """Convert what JSON holds into the type ``hint``: dataclasses, tuples and dicts come back as they were written."""
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        if not isinstance(value, dict) or (unknown := value.keys() - hints):
            found = ", ".join(sorted(unknown)) if isinstance(value, dict) else repr(value)
            raise TypeError(f"{getattr(hint, '__name__', hint)} has no {found}")
        return hint(**{name: _of_type(hints[name], entry) for name, entry in value.items()})  # type: ignore[operator]
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_of_type(get_args(hint)[0], entry) for entry in value)
    if get_origin(hint) is dict and isinstance(value, dict):
        of_key, of_entry = get_args(hint)
        return {of_key(key): _of_type(of_entry, entry) for key, entry in value.items()}
    if hint in (int, float) and not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value

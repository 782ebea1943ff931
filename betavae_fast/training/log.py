"""The quantities that a run logs, and its log files: metrics.jsonl and TensorBoard's."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from betavae_fast.choices import ACTIVE_NATS
from betavae_fast.files import atomic_writer, naming
from betavae_fast.training.checked_json import RunFileError


@dataclass(frozen=True)
class LogEntry:
    """Means over the steps since the last entry; losses in nats per image, channels in nats."""

    step: int  # steps done
    images: int  # images seen
    seconds: float  # duration of the interval
    images_per_second: float
    loss: float
    reconstruction: float
    kl: float
    kl_per_dim: list[float]
    mean_dispersion: list[float]  # part of kl_per_dim: ½ mean(μ²)
    variance: list[float]  # the rest of kl_per_dim
    # Quantities that the objective logs: its current weight, the parts of the KL, ...
    objective: dict[str, float] = field(default_factory=dict)
    # The means over the held-out images, if they were validated at this step: "reconstruction", "kl" and "elbo".
    validation: dict[str, float] = field(default_factory=dict)

    @property
    def active_channels(self) -> int:
        """The number of channels whose KL is above ``ACTIVE_NATS``."""
        return sum(kl > ACTIVE_NATS for kl in self.kl_per_dim)


class LogWriter:
    """Appends entries to metrics.jsonl, a whole line at a time, and to TensorBoard's log.

    TensorBoard will not show entries that an earlier writer logged after ``step``. ``drop_entries_after`` removes such
    entries from metrics.jsonl.
    """

    def __init__(self, jsonl: Path, tensorboard: Path, step: int) -> None:
        self._jsonl, self._logs = jsonl, tensorboard
        self._file = jsonl.open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(tensorboard), purge_step=step + 1)

    def write(self, entry: LogEntry) -> None:
        """Append an entry.

        Raises: OSError, which names the file, if the disk is full.
        """
        described = asdict(entry)
        if not entry.validation:  # a run without held-out images stays readable by versions that know none
            del described["validation"]
        with naming(self._jsonl):
            self._file.write(json.dumps(described, allow_nan=False) + "\n")
            self._file.flush()
        with naming(self._logs):
            self._write_tensorboard(entry)

    def _write_tensorboard(self, entry: LogEntry) -> None:
        for name in ("loss", "reconstruction", "kl", "active_channels", "images_per_second"):
            self._tensorboard.add_scalar(name, getattr(entry, name), entry.step)
        for channel, kl in enumerate(entry.kl_per_dim):
            self._tensorboard.add_scalar(f"kl_per_dim/{channel:03d}", kl, entry.step)
        for name, value in entry.objective.items():
            self._tensorboard.add_scalar(f"objective/{name}", value, entry.step)
        for name, value in entry.validation.items():
            self._tensorboard.add_scalar(f"validation/{name}", value, entry.step)
        self._tensorboard.flush()

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # On a full disk closing fails as writing did; the first error is the one to report.
        with suppress(OSError) if error is not None else nullcontext():
            self._file.close()
        with suppress(OSError) if error is not None else naming(self._logs):
            self._tensorboard.close()


def read_log(jsonl: Path) -> list[LogEntry]:
    """The entries of a metrics.jsonl, in order. A last line that its writer did not finish is left out.

    Raises: RunFileError, naming the file, if it is missing or has no entry, or, naming the line, too, if one is
        damaged.
    """
    if not jsonl.exists():
        raise RunFileError(f"{jsonl}: no such file")
    entries = [_parse(jsonl, number, line) for number, line in enumerate(_whole_lines(jsonl), start=1)]
    if not entries:
        raise RunFileError(f"{jsonl}: it has no entry")
    return entries


def drop_entries_after(jsonl: Path, step: int) -> None:
    """Remove the entries after ``step``, and a last line that its writer did not finish.

    Raises: RunFileError, naming file and line, if any other line is damaged.
    """
    if not jsonl.exists():
        return
    kept = [
        line + b"\n"
        for number, line in enumerate(_whole_lines(jsonl), start=1)
        if _parse(jsonl, number, line).step <= step
    ]
    with atomic_writer(jsonl) as file:
        file.writelines(kept)


def _whole_lines(jsonl: Path) -> list[bytes]:
    *lines, _unfinished = jsonl.read_bytes().split(b"\n")
    return lines


def _parse(jsonl: Path, number: int, line: bytes) -> LogEntry:
    try:
        entry = LogEntry(**json.loads(line))
        if type(entry.step) is not int:
            raise ValueError(f"step {entry.step!r}")
    except (ValueError, TypeError, RecursionError) as error:
        raise RunFileError(f"{jsonl}: line {number} is damaged ({error})") from error
    return entry

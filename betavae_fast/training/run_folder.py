"""The folder of a run: its layout, its configuration and its lock."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import torch

from betavae_fast.data.folder import is_run
from betavae_fast.data.identity import DataIdentity
from betavae_fast.files import remove_leftovers
from betavae_fast.training.checked_json import RunFileError, read_checked, write_checked
from betavae_fast.training.config import TrainConfig

_NAMED = 3  # most runs named in a message


@dataclass(frozen=True)
class RunFolder:
    """The layout of a run's folder.

    config.json       the run's latest configuration, the identity of its data, the versions of Python and torch
    metrics.jsonl     one JSON object per logged interval
    tensorboard/      the same entries for TensorBoard
    checkpoint/       weights and optimizer state (see ``training.checkpoint``)
    summary.json      the final table
    evaluation.json   the scores of the codes, after an evaluation
    report.html       the evaluation as a page, with its pictures
    pictures/         reconstructions, latent traversal, capacity of each channel, and an evaluation's
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"


def create_run_folder(
    config: TrainConfig,
    out: Path | None = None,
    data: DataIdentity | None = None,
    held_out: DataIdentity | None = None,
) -> RunFolder:
    """Create a run's folder and write ``config.json`` into it.

    Args:
        data, held_out: the identities of the images to train on, and of those to validate with.
        out: the folder, which must be new or empty. None: the first name that is free among
            runs/DATA-ARCHITECTURE, runs/DATA-ARCHITECTURE-2, ...
    Raises: FileExistsError if ``out`` is a file or a folder with something in it.
    """
    if out is None:
        path = _first_free(_default_path(config))
    else:
        path = out
        check_new(path)
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    write_config(folder, config, data, held_out)
    return folder


def check_run(folder: RunFolder) -> None:
    """Refuse a folder that no training run has written to.

    Raises: RunFileError, which names runs in that folder or beside it.
    """
    if any(path.exists() for path in (folder.config, folder.metrics, folder.checkpoint)):
        return
    for place in (folder.path, folder.path.parent):
        if names := sorted(path.parent.name for path in place.glob("*/config.json") if is_run(path.parent)):
            where = "this folder" if place == Path() else place
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise RunFileError(
                f"{folder.path} is not the folder of a run; {where} has {', '.join(names[:_NAMED])}{more}"
            )
    raise RunFileError(f"{folder.path} is not the folder of a run")


def check_new(path: Path) -> None:
    """Refuse a folder for a new run unless it is missing or empty.

    Files of a run that was killed before it had a configuration are removed.

    Raises: FileExistsError if ``path`` is a file or a folder with something in it.
    """
    remove_leftovers(path)
    check_empty(path)


def runs_before(folder: RunFolder, config: TrainConfig) -> list[RunFolder]:
    """The folders whose names come before the one that ``create_run_folder`` has chosen for ``folder``, latest first."""
    first = _default_path(config)
    number = int(folder.path.name.removeprefix(f"{first.name}-") if folder.path != first else 1)
    return [RunFolder(_numbered(first, earlier)) for earlier in range(number - 1, 0, -1)]


def copy_run(source: RunFolder, out: Path) -> RunFolder:
    """Copy a run into ``out``, a new or empty folder, to continue it there.

    Raises: RunFileError if there is no run in ``source``; FileExistsError if ``out`` is a file or not empty.
    """
    check_run(source)
    read_config(source)
    check_empty(out)
    shutil.copytree(source.path, out, dirs_exist_ok=True)
    return RunFolder(out)


def write_config(
    folder: RunFolder,
    config: TrainConfig,
    data: DataIdentity | None = None,
    held_out: DataIdentity | None = None,
) -> None:
    """Write ``config.json``, with a checksum."""
    described = {
        "config": config.entries(),
        "data": data and asdict(data),
        "held_out": held_out and asdict(held_out),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_checked(folder.config, described)


def read_config(folder: RunFolder) -> TrainConfig:
    """The configuration in ``config.json``.

    Raises: RunFileError if the file is missing, damaged, or of another version.
    """
    described = read_checked(folder.config)
    try:
        return TrainConfig.from_entries(described["config"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunFileError(f"{folder.config}: not a configuration ({error})") from error


def read_data_identity(folder: RunFolder, which: Literal["data", "held_out"] = "data") -> DataIdentity | None:
    """The identity of the images the run is trained on or validated with, from ``config.json``; None if it was not
    recorded.

    Raises: RunFileError if the file is missing, damaged, or of another version.
    """
    entry = read_checked(folder.config).get(which)
    try:
        return DataIdentity.from_json(entry) if entry else None
    except (KeyError, TypeError, ValueError) as error:
        raise RunFileError(f"{folder.config}: not the identity of a data set ({error!r})") from error


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock the folder of a run or a sweep against other processes. The lock ends with this process, however it ends.

    Raises: BlockingIOError if another process holds the lock.
    """
    if os.name == "nt":  # Windows cannot open a folder, and has no flock
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{folder} is in use by another process") from error
        yield
    finally:
        os.close(descriptor)


def results_folder(path: str | os.PathLike[str]) -> RunFolder:
    """Create the folder ``path`` for results, and find out before any work whether files can be written there.

    Raises: OSError, which suggests another folder, if they cannot.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
    except OSError as error:
        raise OSError(
            f"{os.fspath(path)}: no results can be written there ({error.strerror}); "
            "choose another folder with --out"
        ) from error
    return RunFolder(Path(path))


def check_empty(path: Path) -> None:
    """Refuse a folder for new files unless it is missing or empty.

    Raises: FileExistsError if ``path`` is a file or a folder with something in it.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} already exists and is not an empty folder; choose another folder")


def _default_path(config: TrainConfig) -> Path:
    return Path("runs") / f"{Path(config.data).stem}-{config.architecture}"


def _first_free(path: Path) -> Path:
    return next(found for number in count(1) if not (found := _numbered(path, number)).exists())


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.name}-{number}")

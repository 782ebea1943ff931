"""Where a run keeps what it leaves behind."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from betavae_fast.data.cache import atomic_writer
from betavae_fast.training.config import TrainConfig


@dataclass(frozen=True)
class RunFolder:
    """The layout of a run's folder.

    config.json       what the run was told, and by which versions it was run
    metrics.jsonl     one JSON object per logged interval
    tensorboard/      the same, for TensorBoard
    checkpoint/       weights and optimizer state (see ``training.checkpoint``)
    summary.json      the final table
    pictures/         reconstructions, latent traversal, capacity of each channel
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
    def pictures(self) -> Path:
        return self.path / "pictures"


def create_run_folder(config: TrainConfig, out: Path | None = None) -> RunFolder:
    """Make a run's folder and write ``config.json`` into it.

    Args:
        out: the folder, which must not hold anything yet. None: the first free of runs/DATA-ARCHITECTURE,
            runs/DATA-ARCHITECTURE-2, ...
    Raises: FileExistsError if ``out`` is a file or a folder with something in it.
    """
    if out is None:
        path = _first_free(Path("runs") / f"{Path(config.data).stem}-{config.architecture}")
    else:
        path = out
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FileExistsError(
                f"{path} already exists and is not an empty folder; choose another run folder"
            )
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    described = {
        "config": asdict(config),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    with atomic_writer(folder.config) as file:
        file.write(json.dumps(described, indent=2).encode())
    return folder


def _first_free(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate

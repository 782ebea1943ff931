"""Runs as the commands that look at them need them: read, and left as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from betavae_fast.data import ImageDataset
    from betavae_fast.nn import BetaVAE
    from betavae_fast.training.config import TrainConfig
    from betavae_fast.training.run_folder import RunFolder


@dataclass(frozen=True)
class TrainedRun:
    """A run's last checkpoint, on the device, with its data set, which ``data`` remembers for the next run."""

    folder: RunFolder
    config: TrainConfig
    step: int
    model: BetaVAE
    dataset: ImageDataset
    precision: torch.dtype


def open_run(path: Path, device: str, data: dict[str, ImageDataset]) -> TrainedRun:
    """The run in ``path``.

    Args:
        data: the data sets loaded so far, by name.
    Raises: CheckpointError without a whole checkpoint, ValueError for data of another shape or a device that is not
        there, DatasetError for data that are gone.
    """
    import torch

    from betavae_fast.data import load_dataset
    from betavae_fast.training.checkpoint import load_checkpoint
    from betavae_fast.training.device import resolve_device
    from betavae_fast.training.precision import resolve_precision
    from betavae_fast.training.run_folder import RunFolder

    folder = RunFolder(path)
    checkpoint = load_checkpoint(folder.checkpoint)
    config = checkpoint.config
    place = resolve_device(device)
    if config.data not in data:
        data[config.data] = load_dataset(config.data).to(place)
    dataset = data[config.data]
    model = checkpoint.build_model()
    if dataset.image_shape != model.image_shape:
        raise ValueError(
            f"{path}: trained on images of shape {model.image_shape}, but {config.data} now has {dataset.image_shape}"
        )
    model = model.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainedRun(
        folder, config, checkpoint.step, model, dataset, resolve_precision(config.precision, place)
    )


def name_of(path: Path) -> str:
    """What a run is called in reports: its folder's name."""
    return path.resolve().name

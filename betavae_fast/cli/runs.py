"""Runs, their images and the folders of their results, as every command opens them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from betavae_fast.data import ImageDataset
    from betavae_fast.data.identity import DataIdentity
    from betavae_fast.nn import BetaVAE
    from betavae_fast.training.config import TrainConfig
    from betavae_fast.training.run_folder import RunFolder

RunData = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="The run's images, if they have moved, or other images: a name or a path.",
        show_default="where the run found them",
    ),
]


@dataclass(frozen=True)
class TrainedRun:
    """A run's last checkpoint, with its model on the device. The run's folder is only read."""

    folder: RunFolder
    config: TrainConfig
    step: int
    model: BetaVAE
    precision: torch.dtype
    trained_on: DataIdentity | None


def open_run(path: Path, device: str) -> TrainedRun:
    """Read the run in ``path``.

    Raises: CheckpointError if there is no complete checkpoint; ValueError for a device that is missing.
    """
    import torch

    from betavae_fast.training.checkpoint import load_checkpoint
    from betavae_fast.training.device import resolve_device
    from betavae_fast.training.precision import resolve_precision
    from betavae_fast.training.run_folder import RunFolder

    folder = RunFolder(path)
    checkpoint = load_checkpoint(folder.checkpoint)
    place = resolve_device(device)
    model = checkpoint.build_model().to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = checkpoint.config
    precision = resolve_precision(config.precision, place)
    return TrainedRun(folder, config, checkpoint.step, model, precision, checkpoint.data)


def load_images(config: TrainConfig, *, progress: bool = True) -> ImageDataset:
    """Load the images that ``config`` names.

    Raises: DatasetError, which suggests ``--data`` if the images are no longer where they were.
    """
    from betavae_fast.data import DatasetError, is_present, load_dataset

    try:
        return load_dataset(
            config.data, image_size=config.image_size, channels=config.channels, progress=progress
        )
    except DatasetError as error:
        if is_present(config.data):
            raise
        raise DatasetError(f"{error}; if the images have moved, give their new path with --data") from error


def images_of(run: TrainedRun, loaded: dict[object, ImageDataset] | None = None) -> ImageDataset:
    """Load the images of ``run.config`` onto the run's device.

    Args:
        loaded: data sets already loaded for other runs; this one is added.
    Raises: DatasetError like ``load_images``; ValueError if the shape of the images differs from the model's.
    """
    loaded = {} if loaded is None else loaded
    config = run.config
    key = (config.data, config.image_size, config.channels)
    if key not in loaded:
        loaded[key] = load_images(config).to(next(run.model.parameters()).device)
    dataset = loaded[key]
    if dataset.image_shape != run.model.image_shape:
        raise ValueError(
            f"{run.folder.path}: the model takes images of shape {run.model.image_shape}, "
            f"but {run.config.data} has {dataset.image_shape}"
        )
    return dataset


def results_folder(path: Path) -> RunFolder:
    """Create the folder ``path`` for results, and find out before any work whether files can be written there.

    Raises: OSError, which suggests ``--out``, if they cannot.
    """
    from betavae_fast.training.run_folder import RunFolder

    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
    except OSError as error:
        raise OSError(
            f"{path}: no results can be written there ({error.strerror}); choose another folder with --out"
        ) from error
    return RunFolder(path)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Name runs for reports, by as many last parts of each path as tell them all apart.

    >>> distinct_names([Path("/a/exp1/run"), Path("/a/exp2/run")])
    ['exp1/run', 'exp2/run']
    """
    parts = [path.resolve().parts for path in paths]
    different = len(set(parts))
    depth = 1
    while len({path[-depth:] for path in parts}) < different:
        depth += 1
    return ["/".join(path[-depth:]) for path in parts]

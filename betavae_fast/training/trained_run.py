"""Opens a trained run: its model, its configuration, its log and its images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from betavae_fast import data as datasets
from betavae_fast.choices import Kept
from betavae_fast.data import DataIdentity, DatasetError, ImageDataset
from betavae_fast.nn import BetaVAE
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.device import resolve_device
from betavae_fast.training.log import LogEntry, read_log
from betavae_fast.training.precision import dtype_of, recorded_precision
from betavae_fast.training.run_folder import RunFolder, check_run
from betavae_fast.training.state import TrainState
from betavae_fast.training.validation import (
    HeldOut,
    check_unseen,
    held_out_images,
    load_unseen,
    training_images,
)


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A model of a run's last checkpoint, on a device. The run's folder is only read.

    Attributes:
        folder: the run's folder.
        config: the run's configuration; its ``data`` are the images to load.
        step: the number of training steps that made the model.
        model: the model, in evaluation mode.
        precision: dtype of the network's arithmetic in training, float32 or bfloat16.
        trained_on: the identity of the training images; None if the run did not record it.
        history: the entries of metrics.jsonl, in order, at least one.
        dataset: the images, if they are loaded already; they are then used whatever ``config`` names.
        validated_with: the identity of the data set that the held-out images are from; None if there are none.
    """

    folder: RunFolder
    config: TrainConfig
    step: int
    model: BetaVAE
    precision: torch.dtype
    trained_on: DataIdentity | None
    history: list[LogEntry]
    dataset: ImageDataset | None = None
    validated_with: DataIdentity | None = None

    @classmethod
    def of(cls, state: TrainState, folder: RunFolder) -> TrainedRun:
        """The run that training has just left in ``folder``."""
        return cls(
            folder,
            state.config,
            state.step,
            state.model.eval(),
            state.precision,
            state.dataset.identity,
            read_log(folder.metrics),
            state.dataset,
            state.validated_with,
        )

    def images(self, loaded: dict[object, ImageDataset] | None = None) -> ImageDataset:
        """Load the images of ``config``, uint8 or bool (N, C, H, W), onto the model's device.

        Args:
            loaded: data sets already loaded for other runs, which share them; this one is added.
        Raises: DatasetError as ``load_images``; ValueError if the shape of the images differs from the model's.
        """
        if self.dataset is not None:
            return self.dataset
        loaded = {} if loaded is None else loaded
        key = (self.config.data, self.config.factors, self.config.image_size, self.config.channels)
        if key not in loaded:
            loaded[key] = load_images(self.config).to(next(self.model.parameters()).device)
        return self._fitting(loaded[key])

    def open_images(self) -> ImageDataset:
        """Open the images of ``config`` on the CPU, to read them once; those of a folder are decoded when they are read.

        Raises: as `images`.
        """
        if self.dataset is not None:
            return self.dataset
        return self._fitting(_load(datasets.open_dataset, self.config))

    def without_factors(self) -> TrainedRun:
        """This run for a use in which the factors of its images do not matter, and need not be there."""
        return replace(self, config=replace(self.config, factors=None))

    def training_images(self, dataset: ImageDataset) -> Tensor | None:
        """The indices of the images of ``dataset`` that the run trained on, int64; None if it has held out none of them.

        Args:
            dataset: the images of the run, or others.
        """
        return training_images(self.config, len(dataset)) if self._is_own(dataset) else None

    def held_out(self, dataset: ImageDataset) -> HeldOut | None:
        """The images that the run never trained on, on the model's device; None if it has none, or ``dataset`` is not
        its own: images that somebody else has chosen have no such part.

        Args:
            dataset: the images of the run, or others.
        Raises: DatasetError if the images of another data set are no longer where they were, or are others now.
        """
        if not self._is_own(dataset):
            return None
        unseen = load_unseen(self.config, self.model.image_shape)
        check_unseen(unseen, self.validated_with)
        return held_out_images(self.config, dataset, unseen)

    def _is_own(self, dataset: ImageDataset) -> bool:
        return self.config.validation is not None and self.trained_on in (None, dataset.identity)

    def _fitting(self, dataset: ImageDataset) -> ImageDataset:
        if dataset.image_shape != self.model.image_shape:
            raise ValueError(
                f"{self.folder.path}: the model takes images of shape {self.model.image_shape}, "
                f"but {self.config.data} has {dataset.image_shape}"
            )
        return dataset


def open_run(
    path: str | os.PathLike[str],
    device: str = "auto",
    *,
    data: str | os.PathLike[str] | None = None,
    factors: str | os.PathLike[str] | None = None,
    kept: Kept = "latest",
) -> TrainedRun:
    """Read the run in the folder ``path``, as training left it or while it goes on.

    Args:
        device: device of the model: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        data: the run's images, if they have moved, or other images: a name or a path, as for ``load_dataset``. The images
            of a folder, also of the run's own, are made as large and as coloured as the model takes them. The run's
            factors are not taken for factors of these images.
        factors: a file of the images' factors, as for ``load_dataset``.
        kept: the model to take: "latest", or "best", that with the lowest validation loss as of the last checkpoint.
    Raises: RunFileError (a ValueError), naming the file, if there is no complete checkpoint, no best model or no log;
        ValueError for a device that is missing.
    """
    folder = RunFolder(Path(path))
    check_run(folder)
    checkpoint = load_checkpoint(folder.checkpoint)
    where = resolve_device(device)
    model = checkpoint.build_model(kept).to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = checkpoint.config
    if data is not None:
        config = replace(config, data=datasets.absolute(data), factors=None)
    if factors is not None:
        config = replace(config, factors=datasets.absolute_file(factors))
    channels, height, width = model.image_shape
    # A folder's own size and channels may have changed: one image with colour makes them all RGB.
    if os.path.isdir(config.data) and height == width:
        config = replace(config, image_size=height, channels=channels)
    precision = dtype_of(recorded_precision(config.precision, where))
    history = read_log(folder.metrics)
    step = checkpoint.step_of(kept)
    return TrainedRun(
        folder,
        config,
        step,
        model,
        precision,
        checkpoint.data,
        history,
        validated_with=checkpoint.held_out,
    )


def load_images(
    config: TrainConfig, *, progress: bool = True, check: Callable[[ImageDataset], None] | None = None
) -> ImageDataset:
    """Load the images that ``config`` names.

    Args:
        progress: show a progress bar on stderr.
        check: as for ``load_dataset``.
    Raises: DatasetError, which suggests another path if the images are no longer where they were; what ``check`` raises.
    """
    load = datasets.load_dataset if check is None else partial(datasets.load_dataset, check=check)
    return _load(load, config, progress)


def _load(load: Callable[..., ImageDataset], config: TrainConfig, progress: bool = True) -> ImageDataset:
    try:
        return load(
            config.data,
            image_size=config.image_size,
            channels=config.channels,
            factors=config.factors,
            progress=progress,
        )
    except DatasetError as error:
        if datasets.is_present(config.data):
            if config.factors is None or os.path.exists(config.factors):
                raise
            raise DatasetError(f"{error}; if it has moved, give its new path with --factors") from error
        raise DatasetError(f"{error}; if the images have moved, give their new path with --data") from error

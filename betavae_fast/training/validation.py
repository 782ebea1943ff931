"""Held-out images: their choice, the validation of a model on them, and the best model so far."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from betavae_fast import data as datasets
from betavae_fast.data import DataIdentity, DatasetError
from betavae_fast.data.images import ImageDataset
from betavae_fast.nn import BetaVAE, ReconstructionLoss
from betavae_fast.processes import rank, sum_over_processes, world_size
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.precision import autocast

VALIDATE_EVERY = 500
"""Steps between two validations, unless a run says otherwise."""
VALIDATION_IMAGES = 10_000
"""The most images that a validation reads: as many as MNIST's test set has."""
_ROWS = 256
# The stream of a validation's noise. The steps of training have streams of their own, from 0 on.
_STREAM = -1


class HeldOut(NamedTuple):
    """Images that a run does not train on: those of ``dataset`` at ``indices``, int64, in random order."""

    dataset: ImageDataset
    indices: Tensor


class BestModel(NamedTuple):
    """The model with the lowest validation loss so far."""

    step: int  # steps done
    loss: float  # −ELBO, nats per image
    later: int  # validations since then
    model: dict[str, Tensor]  # its state dict; empty in a published model


def split(count: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split ``count`` images into those to train on, in order, and those to hold out, in random order: int64 indices.

    Raises: ValueError if one of the two would be empty.

    >>> training, held_out = split(8, fraction=0.25, seed=0)
    >>> len(training), sorted(torch.cat([training, held_out]).tolist())
    (6, [0, 1, 2, 3, 4, 5, 6, 7])
    """
    unseen = round(fraction * count)
    if not 0 < unseen < count:
        raise ValueError(f"validation {fraction} of {count} images holds out {unseen} of them")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[unseen:].sort().values, order[:unseen]


def training_images(config: TrainConfig, count: int) -> Tensor | None:
    """The indices of the images to train on, of a data set of ``count``; None for all.

    Raises: ValueError as ``split``.
    """
    if not isinstance(config.validation, float):
        return None
    return split(count, config.validation, config.seed)[0]


def held_out_images(
    config: TrainConfig, dataset: ImageDataset, unseen: ImageDataset | None
) -> HeldOut | None:
    """The images that a run with ``config`` holds out; None if it holds out none.

    Args:
        dataset: the images of ``config.data``.
        unseen: the images of ``config.validation``, where that is a path, as ``load_unseen`` returns them.
    Raises: ValueError for images of another shape; as ``split``.
    """
    if isinstance(config.validation, float):
        return HeldOut(dataset, split(len(dataset), config.validation, config.seed)[1])
    if config.validation is None:
        return None
    if unseen is None or unseen.image_shape != dataset.image_shape:
        raise ValueError(
            f"validation needs images of shape {dataset.image_shape}, and {config.validation} has "
            f"{unseen and unseen.image_shape}"
        )
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(config.seed))
    return HeldOut(unseen.to(dataset.device), order)


def load_unseen(
    config: TrainConfig, image_shape: tuple[int, int, int], *, progress: bool = True
) -> ImageDataset | None:
    """Load the images of ``config.validation`` if that is a path; those of a folder are made like ``image_shape``.

    Args:
        progress: show a progress bar on stderr.
    Raises: DatasetError, which suggests another path if the images are no longer where they were.
    """
    path, size, channels = config.validation, config.image_size, config.channels
    if not isinstance(path, str):
        return None
    if Path(path).is_dir() and image_shape[1] == image_shape[2]:
        channels, size, _ = image_shape
    try:
        return datasets.load_dataset(path, image_size=size, channels=channels, progress=progress)
    except DatasetError as error:
        if datasets.is_present(path):
            raise
        raise DatasetError(
            f"{error}; if the held-out images have moved, resume with their new path as --validation"
        ) from error


def check_unseen(unseen: ImageDataset | None, expected: DataIdentity | None) -> None:
    """Raise DatasetError if ``unseen`` are other images than those a run was validated with; None is not checked."""
    if unseen is not None and expected is not None and unseen.identity != expected:
        raise DatasetError(
            f"{unseen.name} has {unseen.identity}, but the run was validated with {expected}; "
            "give the images that it was validated with"
        )


def absolute_paths(config: TrainConfig) -> TrainConfig:
    """``config`` with paths of images and factors that are valid in every working directory."""
    unseen = config.validation
    if isinstance(unseen, str):
        unseen = datasets.absolute(unseen)
    factors = None if config.factors is None else datasets.absolute_file(config.factors)
    return replace(config, data=datasets.absolute(config.data), factors=factors, validation=unseen)


@torch.no_grad()
def validate(
    model: BetaVAE,
    held_out: HeldOut,
    reconstruction: ReconstructionLoss,
    *,
    seed: int,
    precision: torch.dtype,
) -> dict[str, float]:
    """The reconstruction loss at a sampled code, the KL and the ELBO of held-out images: means in nats per image.

    Up to ``VALIDATION_IMAGES`` images are read. Images and noise are the same on every call, so two calls differ by the
    weights alone. Several processes share the images, and get the same numbers.

    Args:
        model: the model, in training mode, in which it samples its codes.
    """
    chosen = held_out.indices[:VALIDATION_IMAGES].sort().values.to(held_out.dataset.device)
    noise = torch.tensor([seed, _STREAM], device=chosen.device)
    sums = torch.zeros(2, dtype=torch.float64)
    for start in range(rank() * _ROWS, len(chosen), world_size() * _ROWS):
        images = held_out.dataset.gather(chosen[start : start + _ROWS])
        with autocast(chosen.device, precision):
            out = model(images, seed=noise, first_row=start)
            loss = reconstruction(out.decoded, images)
        sums += len(images) * torch.stack([loss, out.kl.sum()]).cpu().double()
    lost, kl = (sum_over_processes(sums) / len(chosen)).tolist()
    return {"reconstruction": lost, "kl": kl, "elbo": -(lost + kl)}


def better(best: BestModel | None, step: int, loss: float, model: BetaVAE) -> BestModel:
    """The best model after the validation of ``model`` at ``step``. A copy of its weights is kept if it is better.

    Raises: ValueError for a loss that is not finite.
    """
    if not isfinite(loss):
        raise ValueError(f"the validation loss is {loss}")
    if best is not None and loss >= best.loss:
        return best._replace(later=best.later + 1)
    return BestModel(step, loss, 0, {name: tensor.clone() for name, tensor in model.state_dict().items()})


def out_of_patience(config: TrainConfig, best: BestModel | None) -> bool:
    """Tell whether a run has seen ``config.patience`` validations without a lower loss."""
    return config.patience is not None and best is not None and best.later >= config.patience

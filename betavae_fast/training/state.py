"""The state of a training run, and its construction from a configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch

from betavae_fast.data.identity import DataIdentity
from betavae_fast.data.images import ImageDataset
from betavae_fast.nn import BetaVAE, ReconstructionLoss, architectures
from betavae_fast.objectives import Objective
from betavae_fast.objectives.registry import build
from betavae_fast.ops.backends import Backend, choose
from betavae_fast.processes import world_size
from betavae_fast.training.batch_size import largest_batch_size, rows_per_part
from betavae_fast.training.batches import ShuffledBatches
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.device import resolve_device
from betavae_fast.training.precision import choose_precision, dtype_of
from betavae_fast.training.validation import (
    BestModel,
    HeldOut,
    held_out_images,
    out_of_patience,
    training_images,
)


@dataclass
class TrainState:
    """The state of a training run, ready for its next step."""

    config: TrainConfig  # with what batch_size "auto" and precision "auto" stand for here
    dataset: ImageDataset  # on the model's device
    batches: ShuffledBatches
    rows: int  # images in a forward pass: a process's share of a batch, split into ``accumulate`` parts
    model: BetaVAE
    reconstruction: ReconstructionLoss
    objective: Objective
    optimizer: torch.optim.Optimizer
    device: torch.device
    precision: torch.dtype  # dtype of the networks' arithmetic
    why_precision: str  # the reason of "auto" for it in words; "" if it was given
    held_out: HeldOut | None = None  # the images to validate with, on the model's device
    step: int = 0  # steps done
    best: BestModel | None = None  # None before the first validation

    @property
    def finished(self) -> bool:
        """True after the last step, and once the run is out of patience."""
        return self.step >= self.config.steps or out_of_patience(self.config, self.best)

    @property
    def validated_with(self) -> DataIdentity | None:
        """The identity of the data set that the held-out images are from; None if there are none."""
        return None if self.held_out is None else self.held_out.dataset.identity


def check_images(config: TrainConfig, dataset: ImageDataset) -> None:
    """Find out, without reading a pixel, whether a run with ``config`` can be trained on ``dataset``.

    Raises: ValueError for images that the architecture cannot take, a split that leaves no image to train on or to hold
        out, or a batch that is larger than the data set or does not split evenly.
    """
    with torch.device("meta"):
        architectures.build(config.architecture, dataset.image_shape, config.latent_dim)
    training = training_images(config, len(dataset))
    count = len(dataset) if training is None else len(training)
    if config.batch_size == "auto":
        return
    largest = count - count % (world_size() * config.accumulate)
    if config.batch_size > count and largest > 0:
        raise ValueError(
            f"batch_size {config.batch_size} is larger than the data set, which has {count} images to train on; "
            f"batch_size={largest} (--batch-size {largest}) is the largest that works"
        )
    rows_per_part(config.batch_size, config.accumulate)


def prepare(config: TrainConfig, dataset: ImageDataset, unseen: ImageDataset | None = None) -> TrainState:
    """Build the state of a new run, and find out before its first step whether it can run at all.

    The initial weights depend on the seed alone, on any device. Convolution weights are
    channels_last (NHWC), and the convolutions then stay in that layout throughout.

    Args:
        unseen: the images of ``config.validation``, where that is a path (``validation.load_unseen``).
    Raises: ValueError for a device that is missing, an unknown backend, an objective's option out of its range, images
        that the architecture cannot take, a split that leaves no image to train on or to hold out, held-out images of
        another shape, or a batch that is larger than the data set, does not split evenly, or (if
        its size is "auto") does not fit; RuntimeError for a backend that is not available.
    """
    device = resolve_device(config.device)
    choose(config.backend, device.type, torch.float32)
    check_images(config, dataset)
    training = training_images(config, len(dataset))
    count = len(dataset) if training is None else len(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = BetaVAE(
            dataset.image_shape,
            config.latent_dim,
            config.architecture,
            likelihood=config.likelihood,
            scale=config.scale,
            initialization=config.initialization,
            backend=cast(Backend, config.backend),  # checked above
        )
        objective = build(
            config.objective,
            latent_dim=config.latent_dim,
            dataset_size=count,
            backend=config.backend,
        )
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    reconstruction = ReconstructionLoss(
        config.likelihood, scale=config.scale, backend=cast(Backend, config.backend)
    )
    dataset = dataset.to(device)
    held_out = held_out_images(config, dataset, unseen)
    batch_size, precision, why = config.batch_size, config.precision, ""
    if precision == "auto":
        images = count if batch_size == "auto" else batch_size
        rows = max(1, images // (world_size() * config.accumulate))
        precision, why = choose_precision(model, rows, device)
    if batch_size == "auto":
        batch_size = largest_batch_size(
            model,
            reconstruction,
            dataset,
            precision=dtype_of(precision),
            accumulate=config.accumulate,
            most=count,
        )
    return TrainState(
        config=replace(config, batch_size=batch_size, precision=precision),
        dataset=dataset,
        batches=ShuffledBatches(count, batch_size, config.seed, training),
        rows=rows_per_part(batch_size, config.accumulate),
        model=model,
        reconstruction=reconstruction,
        objective=objective.to(device),
        optimizer=_adam(model, config.lr, device),
        device=device,
        precision=dtype_of(precision),
        why_precision=why,
        held_out=held_out,
    )


def _adam(model: BetaVAE, lr: float, device: torch.device) -> torch.optim.Adam:
    """Adam whose learning rate is a tensor on the device, so that each step can set it there."""
    # The fused kernel reads the rate as float32 on a GPU; on the CPU it is a double, like a Python float.
    rate = torch.tensor(lr, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    on_gpu = device.type == "cuda"
    return torch.optim.Adam(
        model.parameters(), lr=rate, fused=on_gpu or device.type == "cpu", capturable=on_gpu
    )

"""What a run consists of, and how it is put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch

from betavae_fast.data.images import ImageDataset
from betavae_fast.nn import BetaVAE, BetaVAELoss
from betavae_fast.ops.backends import Backend, choose
from betavae_fast.training.batches import ShuffledBatches
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.device import resolve_device


@dataclass
class TrainState:
    """Everything a run consists of, ready for its next step."""

    config: TrainConfig
    dataset: ImageDataset  # on the model's device
    batches: ShuffledBatches
    model: BetaVAE
    objective: BetaVAELoss
    optimizer: torch.optim.Optimizer
    device: torch.device
    step: int = 0  # steps done

    @property
    def finished(self) -> bool:
        return self.step >= self.config.steps


def prepare(config: TrainConfig, dataset: ImageDataset) -> TrainState:
    """Build what a run needs, and find out before its first step whether it can run at all.

    The initial weights are a function of the seed alone, on any device. Convolution weights are
    channels_last (NHWC), and the convolutions then stay in that layout throughout.

    Raises: ValueError for a device that is not there, an unknown backend, images the architecture cannot
        take, or a data set smaller than a batch; RuntimeError for a backend that is not available.
    """
    device = resolve_device(config.device)
    choose(config.backend, device.type, torch.float32)
    batches = ShuffledBatches(len(dataset), config.batch_size, config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = BetaVAE(
            dataset.image_shape,
            config.latent_dim,
            config.architecture,
            likelihood=config.likelihood,
            backend=cast(Backend, config.backend),  # checked above
        )
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainState(
        config=config,
        dataset=dataset.to(device),
        batches=batches,
        model=model,
        objective=BetaVAELoss(config.beta, config.likelihood),
        optimizer=torch.optim.Adam(model.parameters(), lr=config.lr, fused=device.type in ("cpu", "cuda")),
        device=device,
    )

"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import cast

import torch
from torch import Tensor

from betavae_fast.data.images import ImageDataset
from betavae_fast.nn import BetaVAE, BetaVAELoss, split_kl
from betavae_fast.ops.backends import Backend, choose
from betavae_fast.training.batches import ShuffledBatches
from betavae_fast.training.checkpoint import save_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.metrics import Metrics, MetricsWriter, RunningMeans
from betavae_fast.training.run_folder import RunFolder


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


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


def train(
    state: TrainState,
    folder: RunFolder,
    *,
    on_step: Callable[[int], None] = lambda step: None,
    on_metrics: Callable[[Metrics], None] = lambda metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> BetaVAE:
    """Take the steps that ``state`` still has to go, writing metrics and checkpoints into ``folder``.

    The data order and the noise of a step follow from the seed and the step, so the same configuration gives
    the same weights, bit for bit, on the same machine with the same number of threads.

    Args:
        on_step: called after each step with the number of steps done.
        on_metrics: called with each entry written to metrics.jsonl.
        should_stop: asked after each step; if true, the run is written down and ends there, unfinished.
    Returns: the model, in evaluation mode. ``state.finished`` tells whether all steps were taken.
    Raises: DivergedError if the loss stops being finite; the last checkpoint then stays as it is.
    """
    config = state.config
    means = RunningMeans()
    logged_step, logged_at = state.step, time.perf_counter()
    state.model.train()
    with MetricsWriter(folder.metrics, folder.tensorboard) as writer:
        stopped = False
        while not (state.finished or stopped):
            _take_step(state, means)
            on_step(state.step)
            stopped = should_stop()
            save = stopped or state.finished or state.step % config.checkpoint_every == 0
            if save or state.step % config.log_every == 0:
                interval = means.read()  # waits for the device, so that the time taken is the steps' own
                now = time.perf_counter()
                metrics = _summarise(interval, state, state.step - logged_step, now - logged_at)
                logged_step, logged_at = state.step, now
                writer.write(metrics)
                on_metrics(metrics)
            if save:  # only after the metrics have shown the loss to be finite
                save_checkpoint(folder.checkpoint, state.step, state.model, state.optimizer)
    return state.model.eval()


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is cuda where there is one, else cpu.

    Raises: ValueError for a name torch does not know or a device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return resolved


def _take_step(state: TrainState, means: RunningMeans) -> None:
    """One update. Nothing in here waits for the device."""
    images = state.dataset.gather(state.batches[state.step].to(state.device))
    # The step is the stream: every step draws noise of its own, and the same noise whenever it is taken.
    noise_seed = torch.tensor([state.config.seed, state.step], dtype=torch.int64, device=state.device)
    out = state.model(images, seed=noise_seed)
    loss = state.objective(out.decoded, images, out.kl)
    state.optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    state.optimizer.step()
    state.step += 1
    with torch.no_grad():
        split = split_kl(out.mu, out.logvar)
    means.add(
        loss=loss.total, reconstruction=loss.reconstruction, kl_per_dim=loss.kl_per_dim, **split._asdict()
    )


def _summarise(means: dict[str, Tensor], state: TrainState, steps: int, seconds: float) -> Metrics:
    """The entry for the last ``steps`` steps, which took ``seconds``."""
    loss = float(means["loss"])
    if not isfinite(loss):
        raise DivergedError(f"the loss became {loss} by step {state.step}; a lower learning rate may help")
    batch_size = state.config.batch_size
    return Metrics(
        step=state.step,
        images=state.step * batch_size,
        seconds=round(seconds, 3),
        images_per_second=round(steps * batch_size / seconds, 1),
        loss=loss,
        reconstruction=float(means["reconstruction"]),
        kl=float(means["kl_per_dim"].sum()),
        kl_per_dim=means["kl_per_dim"].tolist(),
        mean_dispersion=means["mean_dispersion"].tolist(),
        variance=means["variance"].tolist(),
    )

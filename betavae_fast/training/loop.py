"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite

from torch import Tensor

from betavae_fast.nn import BetaVAE
from betavae_fast.training.checkpoint import save_checkpoint
from betavae_fast.training.metrics import Metrics, MetricsWriter, RunningMeans
from betavae_fast.training.run_folder import RunFolder
from betavae_fast.training.state import TrainState, prepare
from betavae_fast.training.step import take_step

__all__ = ["DivergedError", "TrainState", "prepare", "train"]


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


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
    with MetricsWriter(folder.metrics, folder.tensorboard, state.step) as writer:
        stopped = False
        while not (state.finished or stopped):
            take_step(state, means)
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
                save_checkpoint(folder.checkpoint, state.step, config, state.model, state.optimizer)
    return state.model.eval()


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

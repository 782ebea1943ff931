"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor

from betavae_fast.nn import BetaVAE
from betavae_fast.training.checkpoint import NotFiniteError, save_checkpoint
from betavae_fast.training.device import convolutions
from betavae_fast.training.distributed import any_process, data_parallel, peers, world_size
from betavae_fast.training.graph import graphed, side_stream
from betavae_fast.training.metrics import Metrics, MetricsWriter
from betavae_fast.training.run_folder import RunFolder
from betavae_fast.training.state import TrainState, prepare
from betavae_fast.training.step import TrainStep

__all__ = ["DivergedError", "TrainState", "prepare", "train"]


class DivergedError(RuntimeError):
    """The loss or the weights are no longer finite."""


def train(
    state: TrainState,
    folder: RunFolder | None,
    *,
    on_step: Callable[[int], None] = lambda step: None,
    on_metrics: Callable[[Metrics], None] = lambda metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> BetaVAE:
    """Take the steps that ``state`` still has to go, writing metrics and checkpoints into ``folder``.

    The data order and the noise of a step follow from the seed and the step, so the same configuration gives
    the same weights, bit for bit, on the same machine with the same number of threads; on a GPU only if
    ``config.deterministic``. Several processes
    (see ``training.distributed``) each call this with a state of their own and take the same steps together.

    Args:
        folder: where to write; None to write nothing, as all processes but one do.
        on_step: called after each step with the number of steps done.
        on_metrics: called with each entry for metrics.jsonl.
        should_stop: asked after each step; if true, the run is written down and ends there, unfinished. Several
            processes ask at the steps that are logged or saved, and stop together if it is true in any.
    Returns: the model, in evaluation mode. ``state.finished`` tells whether all steps were taken.
    Raises: DivergedError if the loss or the weights stop being finite; the last checkpoint then stays as it is.
        ProcessLostError if another process has ended.
    """
    config = state.config
    logged_step, logged_at = state.step, time.perf_counter()
    state.model.train()
    with ExitStack() as held:
        writer = None
        if folder is not None:
            writer = held.enter_context(MetricsWriter(folder.metrics, folder.tensorboard, state.step))
        held.enter_context(convolutions(deterministic=config.deterministic))
        held.enter_context(side_stream(state.device))
        held.enter_context(peers())
        step = TrainStep(state, data_parallel(state.model))
        take_step = graphed(step, state.device)
        loaded_epoch, stopped = -1, False
        while not (state.finished or stopped):
            epoch = state.step // state.batches.per_epoch
            if epoch != loaded_epoch:
                step.load_order(epoch)
                loaded_epoch = epoch
            take_step()
            state.step += 1
            on_step(state.step)
            save = state.finished or state.step % config.checkpoint_every == 0
            log = save or state.step % config.log_every == 0
            if log or world_size() == 1:
                stopped = any_process(should_stop())
            if log or stopped:
                # Waits for the device, so that the time taken is the steps' own.
                interval = step.means.read((state.step - logged_step) * config.accumulate * world_size())
                now = time.perf_counter()
                metrics = _summarise(interval, state, state.step - logged_step, now - logged_at)
                logged_step, logged_at = state.step, now
                if writer is not None:
                    writer.write(metrics)
                on_metrics(metrics)
            if folder is not None and (save or stopped):  # after the metrics have shown the loss to be finite
                _save(state, folder)
    return state.model.eval()


def _save(state: TrainState, folder: RunFolder) -> None:
    try:
        save_checkpoint(
            folder.checkpoint,
            state.step,
            state.config,
            state.model,
            state.optimizer,
            state.objective,
            state.dataset.identity,
        )
    except NotFiniteError as error:
        raise DivergedError(f"{error} after step {state.step}") from error


def _summarise(means: dict[str, Tensor], state: TrainState, steps: int, seconds: float) -> Metrics:
    """The entry for the last ``steps`` steps, which took ``seconds``."""
    for name, mean in means.items():
        if not mean.isfinite().all():
            raise DivergedError(f"the {name.replace('_', ' ')} is not finite after step {state.step}")
    loss = float(means["loss"])
    batch_size = state.batches.batch_size
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
        objective={name: float(means[name]) for name in state.objective.logged},
    )

"""The training loop: of one run, and of several side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from betavae_fast.nn import BetaVAE
from betavae_fast.processes import any_process, peers, world_size
from betavae_fast.training.checkpoint import NotFiniteError, save_checkpoint
from betavae_fast.training.device import convolutions
from betavae_fast.training.distributed import data_parallel
from betavae_fast.training.graph import graphed, side_stream, side_streams
from betavae_fast.training.log import LogEntry, LogWriter
from betavae_fast.training.moment import Moment
from betavae_fast.training.run_folder import RunFolder
from betavae_fast.training.running_means import RunningMeans
from betavae_fast.training.state import TrainState, prepare
from betavae_fast.training.step import TrainStep
from betavae_fast.training.validation import VALIDATE_EVERY, better, validate

__all__ = ["DivergedError", "TrainState", "prepare", "train", "train_side_by_side"]

T = TypeVar("T")


# Steps by which a log entry is delayed on a GPU. They are queued before the host waits, so the GPU is never idle.
_STEPS_AHEAD = 8


class DivergedError(RuntimeError):
    """The loss, the validation loss or the weights are no longer finite."""


class _Interval(NamedTuple):
    """Steps that share one log entry."""

    sums: Tensor  # sums of the quantities that the steps measured
    begun: Moment
    ended: Moment


def train(
    state: TrainState,
    folder: RunFolder | None,
    *,
    on_step: Callable[[int], None] = lambda step: None,
    on_entry: Callable[[LogEntry], None] = lambda entry: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> BetaVAE:
    """Take the remaining steps of ``state``, writing log entries and checkpoints into ``folder``.

    The data order and the noise of a step depend only on the seed and the step, so the same configuration gives
    the same weights, bit for bit, on the same machine with the same number of threads; on a GPU only if
    ``config.deterministic`` is set. In a run of several processes (see ``training.distributed``), each calls this
    function with a state of its own, and they take the same steps together.

    Args:
        folder: the folder to write into; None to write nothing, as all processes but one do.
        on_step: called after each step with the number of steps done.
        on_entry: called with each entry for metrics.jsonl.
        should_stop: called after each step; if it returns True, the run is saved and ends there, unfinished. Several
            processes call it only at steps that are logged or saved, and stop together if any of them is to stop.
    Returns: the model, in evaluation mode. ``state.finished`` tells whether all steps were taken, or the run is out of
        patience.
    Raises: DivergedError if the loss, the validation loss or the weights are no longer finite; the last checkpoint then
        stays as it is. ProcessLostError if another process has ended.
    """
    with (
        convolutions(deterministic=state.config.deterministic),
        side_stream(state.device),
        closing(_steps(state, folder, on_entry, should_stop)) as steps,
    ):
        for step in steps:
            on_step(step)
    return state.model


def train_side_by_side(
    runs: Sequence[tuple[TrainState, RunFolder | None]],
    *,
    on_failure: Callable[[int, Exception], None],
    on_entry: Callable[[int, LogEntry], None] = lambda run, entry: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Take the remaining steps of several runs in this process, a step of each in turn, as ``train`` takes those of one.

    The step of a small model is a chain of small kernels, which do not fill a GPU. There, each run queues its steps on a
    stream of its own, and the GPU may compute steps of several runs at a time; how much is gained is not measured yet.
    ``process.separate_queues``, called before CUDA is initialised, lets more than eight streams run independently. On a
    CPU nothing is gained.

    A run gets the weights and the log, times aside, that it gets alone, bit for bit. It also takes the memory that it
    takes alone, but runs whose states were prepared with the same data set on the device share it. Runs may differ in
    everything but the device and ``deterministic``; if their steps take different times, the fast wait for the slow.

    Args:
        runs: state and folder of each run, at least one; no folder to write nothing.
        on_failure: called with the position of a run in ``runs``, and the error that has ended it. The others go on.
        on_entry: called with the position of a run, and each entry for its metrics.jsonl.
        should_stop: called after a step of each; if it returns True, all are saved and end there, unfinished.
    Raises: ValueError for runs with several devices, or with and without ``deterministic``; RuntimeError if several
        processes share a batch.
    """
    if world_size() > 1:
        raise RuntimeError(f"runs side by side train in one process, and this is one of {world_size()}")
    device = _same("device", {state.device for state, _ in runs})
    deterministic = _same("deterministic", {state.config.deterministic for state, _ in runs})
    stopping = False
    with ExitStack() as held:
        held.enter_context(convolutions(deterministic=deterministic))
        streams = held.enter_context(side_streams(device, len(runs)))
        going = {}
        for run, (state, folder) in enumerate(runs):
            # Each run records a graph of its own, not a branch of one graph. A graph without branches is launched in a
            # time that hardly grows with its kernels, as NVIDIA says of such graphs alone (technical blog, "Constant
            # Time Launch for Straight-Line CUDA Graphs"), and nothing is recorded again when a run ends.
            steps = _steps(state, folder, partial(on_entry, run), lambda: stopping)
            going[run] = held.enter_context(closing(steps))
        while going:
            stopping = should_stop()
            for run, steps in list(going.items()):
                try:
                    with streams[run]:
                        goes_on = next(steps, None) is not None
                except Exception as error:
                    on_failure(run, error)
                    goes_on = False
                if not goes_on:
                    del going[run]


def _same(name: str, found: set[T]) -> T:
    if len(found) > 1:
        raise ValueError(
            f"runs side by side have the same {name}, got {' and '.join(sorted(map(str, found)))}"
        )
    return found.pop()


def _steps(
    state: TrainState,
    folder: RunFolder | None,
    on_entry: Callable[[LogEntry], None],
    should_stop: Callable[[], bool],
) -> Generator[int, None, None]:
    """Take the remaining steps of a run, on the current stream. Yields the number of steps done after each."""
    config = state.config
    state.model.train()
    with ExitStack() as held:
        writer = None
        if folder is not None:
            writer = held.enter_context(LogWriter(folder.metrics, folder.tensorboard, state.step))
        held.enter_context(peers())
        step = TrainStep(state, data_parallel(state.model))
        take_step = graphed(step, state.device)

        def publish(interval: _Interval, *, validated: bool = False) -> None:
            entry = _summarise(step.means, interval, state)
            if validated:
                entry = replace(entry, validation=_validate(state))
            if writer is not None:
                writer.write(entry)
            on_entry(entry)

        validate_every = config.validation_every or VALIDATE_EVERY
        loaded_epoch, stopped = -1, False
        begun, pending = Moment(state.device, state.step), None
        while not (state.finished or stopped):
            epoch = state.step // state.batches.per_epoch
            if epoch != loaded_epoch:
                step.load_order(epoch)
                loaded_epoch = epoch
            take_step()
            state.step += 1
            yield state.step
            save = state.finished or state.step % config.checkpoint_every == 0
            validates = state.held_out is not None and (state.finished or state.step % validate_every == 0)
            log = save or validates or state.step % config.log_every == 0
            if log or world_size() == 1:
                stopped = any_process(should_stop())
            if pending is not None and (log or stopped or state.step == pending.ended.step + _STEPS_AHEAD):
                publish(pending)
                pending = None
            if log or stopped:
                pending = _Interval(step.means.take(), begun, Moment(state.device, state.step))
                begun = pending.ended
            if pending is not None and (save or validates or stopped or not _runs_behind(state.device)):
                publish(pending, validated=validates)
                pending = None
                if validates:
                    begun = Moment(state.device, state.step)  # a step's time is not a validation's
                    save = save or state.finished  # out of patience
            if folder is not None and (save or stopped):  # after the log has shown the loss to be finite
                _save(state, folder)
    state.model.eval()


def _runs_behind(device: torch.device) -> bool:
    """Tell whether ``device`` only queues a step when it is called, as GPUs do."""
    return device.type == "cuda"


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
            state.validated_with,
            state.best,
        )
    except NotFiniteError as error:
        raise DivergedError(f"{error} after step {state.step}") from error


def _validate(state: TrainState) -> dict[str, float]:
    """Validate the model, and keep it if it is the best so far. Returns: the quantities to log."""
    assert state.held_out is not None, "there are images to validate with"
    found = validate(
        state.model,
        state.held_out,
        state.reconstruction,
        seed=state.config.seed,
        precision=state.precision,
    )
    try:
        state.best = better(state.best, state.step, -found["elbo"], state.model)
    except ValueError as error:
        raise DivergedError(f"{error} after step {state.step}") from error
    return found


def _summarise(running: RunningMeans, interval: _Interval, state: TrainState) -> LogEntry:
    """The log entry of an interval. It waits until the device has finished the interval."""
    seconds = interval.ended.seconds_since(interval.begun)
    end, steps = interval.ended.step, interval.ended.step - interval.begun.step
    means = running.divide(interval.sums, steps * state.config.accumulate * world_size())
    for name, mean in means.items():
        if not mean.isfinite().all():
            raise DivergedError(f"the {name.replace('_', ' ')} is not finite after step {end}")
    batch_size = state.batches.batch_size
    kl_per_dim, mean_dispersion = means["kl_per_dim"], 0.5 * means["squared_mean"]
    return LogEntry(
        step=end,
        images=end * batch_size,
        seconds=round(seconds, 3),
        images_per_second=round(steps * batch_size / seconds, 1),
        loss=float(means["loss"]),
        reconstruction=float(means["reconstruction"]),
        kl=float(kl_per_dim.sum()),
        kl_per_dim=kl_per_dim.tolist(),
        mean_dispersion=mean_dispersion.tolist(),
        variance=(kl_per_dim - mean_dispersion).clamp(min=0).tolist(),  # rounding may make it negative
        objective={name: float(means[name]) for name in state.objective.logged},
    )

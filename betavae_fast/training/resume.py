"""Resuming a run that was stopped or killed, with the result of a run that never stopped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from betavae_fast.data.errors import DatasetError
from betavae_fast.data.identity import describe_difference
from betavae_fast.data.images import ImageDataset
from betavae_fast.files import remove_leftovers
from betavae_fast.training.checked_json import RunFileError
from betavae_fast.training.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_checkpoint,
    tidy_checkpoint,
)
from betavae_fast.training.config import OF_THE_MACHINE, TrainConfig
from betavae_fast.training.device import resolve_device
from betavae_fast.training.log import drop_entries_after
from betavae_fast.training.precision import recorded_precision
from betavae_fast.training.run_folder import (
    RunFolder,
    check_run,
    exclusive,
    read_config,
    read_data_identity,
    write_config,
)
from betavae_fast.training.state import TrainState, prepare
from betavae_fast.training.validation import check_unseen, out_of_patience


def read_run(folder: RunFolder) -> tuple[TrainConfig, Checkpoint | None]:
    """The configuration and the checkpoint of the run in ``folder``; no checkpoint if it was killed before its first.

    Raises: RunFileError if ``folder`` is not a run's, the checkpoint is damaged, or both it and a complete config.json
        are missing.
    """
    check_run(folder)
    if not has_checkpoint(folder.checkpoint):
        return read_config(folder), None
    checkpoint = load_checkpoint(folder.checkpoint)
    return checkpoint.config, checkpoint


class Unfinished(NamedTuple):
    """A run that has not taken all its steps, and that no process trains."""

    folder: RunFolder
    step: int


def unfinished_alike(folders: Iterable[RunFolder], config: TrainConfig) -> Unfinished | None:
    """The first unfinished run in ``folders`` that learns what ``config`` says; None if there is none.

    A precision of "auto" may be another one in each run, so the precision is not compared.
    """
    for folder in folders:
        try:
            own, checkpoint = read_run(folder)
            with exclusive(folder.path):
                step = 0 if checkpoint is None else checkpoint.step
        except (RunFileError, OSError):  # no run, a damaged one, or one in use
            continue
        best = None if checkpoint is None else checkpoint.best
        if step < own.steps and not out_of_patience(own, best) and _learns(own) == _learns(config):
            return Unfinished(folder, step)
    return None


def _learns(config: TrainConfig) -> dict[str, Any]:
    """The settings that say what a run learns."""
    others = (*OF_THE_MACHINE, "precision")
    return {name: value for name, value in config.entries().items() if name not in others}


def resume(
    folder: RunFolder | None,
    config: TrainConfig,
    checkpoint: Checkpoint | None,
    dataset: ImageDataset,
    unseen: ImageDataset | None = None,
) -> TrainState:
    """The state of the run in ``folder``, ready for the step after its checkpoint.

    Log entries after the checkpoint are removed. With the run's own configuration, on the same machine, the remaining
    steps give the same weights and metrics, bit for bit, as if the run had never ended.

    Args:
        folder: the run's folder; None in all processes but the one that writes.
        unseen: the images of ``config.validation``, where that is a path.
    Raises: DatasetError if the images differ from the training images, or the held-out images from those before;
        RunFileError if metrics.jsonl is damaged; the errors of ``prepare``.
    """
    trained_on = held_out = None
    if checkpoint is not None:
        trained_on, held_out = checkpoint.data, checkpoint.held_out
    elif folder is not None:
        trained_on, held_out = read_data_identity(folder), read_data_identity(folder, "held_out")
    if difference := describe_difference(dataset, trained_on):
        raise DatasetError(f"{difference}; give the images that the run was trained on")
    check_unseen(unseen, held_out)
    precision = recorded_precision(config.precision, resolve_device(config.device))
    state = prepare(replace(config, precision=precision), dataset, unseen)
    if checkpoint is not None:
        checkpoint.restore(state.model, state.optimizer, state.objective)
        state.step, state.best = checkpoint.step, checkpoint.best
    if folder is not None:
        if checkpoint is not None:
            tidy_checkpoint(folder.checkpoint)
        for place in (folder.path, folder.pictures):
            remove_leftovers(place)
        drop_entries_after(folder.metrics, state.step)
        write_config(folder, state.config, dataset.identity, state.validated_with)
    return state

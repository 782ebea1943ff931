"""A training run as a whole: its process, its images and its folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from betavae_fast.data import absolute, absolute_file
from betavae_fast.data.images import ImageDataset
from betavae_fast.ops.backends import choose
from betavae_fast.processes import rank
from betavae_fast.training import process
from betavae_fast.training.config import RESUMABLE, TrainConfig
from betavae_fast.training.device import resolve_device
from betavae_fast.training.distributed import one_per_machine_first, process_group
from betavae_fast.training.launch import launched_processes, local_rank
from betavae_fast.training.log import LogEntry
from betavae_fast.training.loop import train
from betavae_fast.training.resume import read_run, resume
from betavae_fast.training.run_folder import RunFolder, check_new, copy_run, create_run_folder, exclusive
from betavae_fast.training.state import TrainState, check_images, prepare
from betavae_fast.training.trained_run import TrainedRun, load_images
from betavae_fast.training.unfinished import warn_of_unfinished
from betavae_fast.training.validation import absolute_paths, load_unseen


class OpenRun(NamedTuple):
    """A run that this process may train, and whose folder no other process can open meanwhile."""

    state: TrainState
    folder: RunFolder | None  # None in all processes of torchrun's but the one that writes


def train_run(
    config: TrainConfig,
    out: Path | str | None = None,
    *,
    on_step: Callable[[int], None] = lambda step: None,
    on_entry: Callable[[LogEntry], None] = lambda entry: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainedRun:
    """Train a new run in this process, as ``betavae-fast train`` does. For several processes, use :func:`new_run`.

    CPU threads and the treatment of freed memory are set for the whole process, and stay so. A schedule of the objective
    or of the learning rate that is longer than the run is a UserWarning.

    Args:
        out: the run's folder, new or empty; None: the first that is free among runs/DATA-ARCHITECTURE,
            runs/DATA-ARCHITECTURE-2, ...
        on_step, on_entry, should_stop: see :func:`betavae_fast.training.loop.train`.
    Returns: the run, for :mod:`betavae_fast.evaluation.report`. Its folder holds config.json, metrics.jsonl,
        TensorBoard's log and the checkpoint.
    Raises: FileExistsError if ``out`` is not empty; DatasetError if the images cannot be loaded; RuntimeError under
        torchrun; the errors of :func:`betavae_fast.training.state.prepare` and of the loop.
    """
    if launched_processes() > 1:
        raise RuntimeError(
            "train_run trains in one process; in those that torchrun started use new_run and loop.train"
        )
    warn_of_unfinished([config])
    with new_run(config, out) as (state, folder):
        train(state, folder, on_step=on_step, on_entry=on_entry, should_stop=should_stop)
        assert folder is not None, "a single process writes"
        return TrainedRun.of(state, folder)


@contextmanager
def new_run(
    config: TrainConfig, out: Path | str | None = None, *, dataset: ImageDataset | None = None
) -> Iterator[OpenRun]:
    """Load the images of a new run, prepare its first step, and only then create and lock its folder.

    The processes that torchrun started are connected within the block. CPU threads and the treatment of freed memory are
    set for the whole process.

    Args:
        dataset: the images, if they are loaded already.
    Raises: as ``train_run``; ValueError for more threads than CPUs.
    """
    with process_group(), ExitStack() as held:
        config = absolute_paths(config)
        # What can be refused without a pixel is refused before the images are decoded, which may take minutes.
        if rank() == 0 and out is not None:
            check_new(Path(out))
        choose(config.backend, resolve_device(config.device).type, torch.float32)
        state = prepare(config, *_load(config, dataset, check=partial(check_images, config)))
        folder = None
        if rank() == 0:
            folder = create_run_folder(
                state.config,
                None if out is None else Path(out),
                state.dataset.identity,
                state.validated_with,
            )
            held.enter_context(exclusive(folder.path))
        yield OpenRun(state, folder)


@contextmanager
def resumed_run(
    path: Path | str,
    changes: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    *,
    dataset: ImageDataset | None = None,
) -> Iterator[OpenRun]:
    """Prepare the run in ``path`` for the step after its checkpoint, and lock its folder.

    Training needs no factors, so a warning says where the file of the run's factors was expected if it is gone.

    Args:
        changes: settings to change, some of ``RESUMABLE``.
        out: a new or empty folder, to copy the run there and continue the copy.
        dataset: the images, if they are loaded already.
    Raises: ValueError for a change of another setting, fewer steps than are done, or held-out images where the run had a
        fraction of its data or none; RunFileError for a damaged run; BlockingIOError if another process has it open; the
        errors of :func:`betavae_fast.training.resume.resume`.
    """
    changes = dict(changes or {})
    if kept := sorted(changes.keys() - set(RESUMABLE)):
        raise ValueError(
            f"a resumed run keeps its own {', '.join(kept)}; only {', '.join(RESUMABLE)} may change"
        )
    folder = RunFolder(Path(path))
    with process_group(), ExitStack() as held:
        config, checkpoint = read_run(folder)
        if checkpoint is not None and 1 <= changes.get("steps", checkpoint.step) < checkpoint.step:
            raise ValueError(
                f"{folder.path} is at step {checkpoint.step} already, so nothing is left to train up to step "
                f"{changes['steps']}: a larger number of steps (--steps) goes on"
            )
        writes = rank() == 0
        if writes:
            folder = folder if out is None else copy_run(folder, Path(out))
            held.enter_context(exclusive(folder.path))
        if "validation" in changes and not (
            isinstance(config.validation, str) and isinstance(changes["validation"], str)
        ):
            raise ValueError(
                f"a resumed run keeps its validation {config.validation}, got {changes['validation']}; "
                "only a path may change, of images that have moved"
            )
        for name in changes.keys() & {"data", "validation"}:
            changes[name] = absolute(changes[name])
        if changes.get("factors") is not None:
            changes["factors"] = absolute_file(changes["factors"])
        config = replace(config, **changes)
        # The state keeps the path of the factors, for an evaluation once they are there again.
        loaded = _load(config if "factors" in changes else _without_lost_factors(config), dataset)
        state = resume(folder if writes else None, config, checkpoint, *loaded)
        yield OpenRun(state, folder if writes else None)


def _without_lost_factors(config: TrainConfig) -> TrainConfig:
    """``config``, without its file of factors if that is gone."""
    if config.factors is None or Path(config.factors).is_file():
        return config
    if rank() == 0:
        warnings.warn(
            f"{config.factors}: no such file of factors; the run goes on without them, and evaluate takes their new path "
            "as --factors",
            stacklevel=4,
        )
    return replace(config, factors=None)


def _load(
    config: TrainConfig,
    dataset: ImageDataset | None,
    check: Callable[[ImageDataset], None] | None = None,
) -> tuple[ImageDataset, ImageDataset | None]:
    """Configure the process, and load the images unless they are given, and those to validate with if they are other
    images. Of several processes on a machine, one loads them first and leaves them in the cache."""
    process.keep_freed_memory()
    process.set_threads(config.threads)
    with one_per_machine_first():
        progress = local_rank() == 0
        if dataset is None:
            dataset = load_images(config, progress=progress, check=check)
        return dataset, load_unseen(config, dataset.image_shape, progress=progress)

"""Forecasts the time of a sweep from a few timed steps, and finds the precision of its runs.

A run of its own would measure for itself what "auto" stands for, and the runs of one sweep could come to different
answers. So it is measured once for each network, while as many processes measure as will train at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from statistics import median
from time import monotonic, perf_counter
from typing import Any, NamedTuple

from betavae_fast.choices import Precision
from betavae_fast.data.images import ImageDataset
from betavae_fast.sweep.folder import Standing
from betavae_fast.sweep.grid import SweptRun
from betavae_fast.sweep.local import SharedImages, make_processes
from betavae_fast.training.config import TrainConfig

_SECONDS = 1.0
"""The time for which steps are timed."""
_LOG_EVERY, _IMAGES = 5, 2048


class Timing(NamedTuple):
    """The measurement of a configuration: seconds for a step, and for the encoding of all images."""

    precision: Precision
    why_precision: str
    step: float
    encoding: float


def measure(
    runs: Sequence[SweptRun],
    standings: Mapping[str, Standing],
    devices: Sequence[str],
    images: SharedImages,
) -> tuple[list[SweptRun], dict[str, Timing]]:
    """Time every kind of run once, and give the runs of each network one precision.

    A network that a run has begun to train keeps that run's precision.

    Args:
        standings: how far each run is, by its name.
        devices: the device of each run that will be trained at the same time.
    Returns: the runs with the precision that "auto" stands for, and the timing of each run by its name. A run that
        cannot be timed, because its training fails, keeps "auto" and is left out of the timings.
    """
    precisions: dict[object, Precision] = {}
    for run in runs:
        begun = standings[run.name].precision
        if begun is not None and run.config.precision == "auto":
            precisions.setdefault(_network(run.config), begun)
    settled, timings, by_kind = list[SweptRun](), dict[str, Timing](), dict[object, Timing | None]()
    for run in runs:
        network = _network(run.config)
        config = run.config
        if config.precision == "auto":
            config = replace(config, precision=precisions.get(network, "auto"))
        kind = (network, config.objective.objective)
        if kind not in by_kind:
            by_kind[kind] = _time(config, devices, images)
        if (timing := by_kind[kind]) is not None:
            precisions.setdefault(network, timing.precision)
            config = replace(config, precision=timing.precision)
            timings[run.name] = timing
        settled.append(replace(run, config=config))
    return settled, timings


def forecast(
    runs: Iterable[SweptRun], standings: Mapping[str, Standing], timings: Mapping[str, Timing], places: int
) -> float | None:
    """The seconds in which ``places`` runs at a time are trained and their images encoded. None if one was not timed.

    The time of scores and pictures is not counted.
    """
    free_at = [0.0] * places
    for run in runs:
        if run.name not in timings:
            return None
        timing = timings[run.name]
        steps = run.config.steps - standings[run.name].step
        heapq.heapreplace(free_at, free_at[0] + steps * timing.step + timing.encoding)
    return max(free_at)


def _network(config: TrainConfig) -> object:
    """The settings that decide how fast a network computes."""
    names = "data image_size channels architecture latent_dim likelihood batch_size accumulate threads backend precision"
    return tuple(getattr(config, name) for name in names.split())


def _time(config: TrainConfig, devices: Sequence[str], images: SharedImages) -> Timing | None:
    """Time ``config`` in one process for each of ``devices``, all at once. None if its training fails."""
    processes = make_processes()
    workers = []
    for device in devices:
        ours, theirs = processes.Pipe()
        arguments = (theirs, replace(config, device=device), images.of(config))
        worker = processes.Process(target=_report, args=arguments, daemon=True)
        worker.start()
        theirs.close()
        workers.append((worker, ours))
    timings = list[Timing]()
    try:
        for _, connection in workers:
            with suppress(EOFError, OSError):
                timings.append(connection.recv())
    finally:
        for worker, _ in workers:
            worker.kill()
            worker.join()
    if len(timings) < len(devices):
        return None
    # bf16 only if it is worth it in all of them.
    decisive = min(timings, key=lambda timing: timing.precision == "bf16")
    return decisive._replace(
        step=median(timing.step for timing in timings), encoding=median(timing.encoding for timing in timings)
    )


def _report(connection: Connection, config: TrainConfig, dataset: ImageDataset | None) -> None:
    """Send the timing of ``config``; if its training fails, nothing, since the run itself will say why."""
    with suppress(Exception):
        connection.send(_timing(config, dataset))


def _timing(config: TrainConfig, dataset: ImageDataset | None) -> Timing:
    from betavae_fast.evaluation.encoding import encode
    from betavae_fast.evaluation.summary import choose_images
    from betavae_fast.training import loop, process
    from betavae_fast.training.trained_run import load_images

    process.keep_freed_memory()
    process.set_threads(config.threads)
    config = replace(config, steps=10**9, log_every=_LOG_EVERY, checkpoint_every=10**9)
    state = loop.prepare(config, load_images(config) if dataset is None else dataset)
    seconds = list[float]()
    deadline = monotonic() + _SECONDS
    model = loop.train(
        state,
        None,
        on_entry=lambda entry: seconds.append(state.batches.batch_size / entry.images_per_second),
        should_stop=lambda: len(seconds) > 1 and monotonic() > deadline,
    )
    chosen = choose_images(len(state.dataset), _IMAGES)
    start = perf_counter()
    encode(model, state.dataset, chosen, precision=state.precision)
    encoding = (perf_counter() - start) * len(state.dataset) / len(chosen)
    precision: Any = state.config.precision
    # The first steps make the kernels and warm the caches.
    return Timing(precision, state.why_precision, median(seconds[1:]), encoding)

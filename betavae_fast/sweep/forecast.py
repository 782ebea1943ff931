"""Forecasts the time of a sweep from a few timed steps, and finds the precision of its runs.

A run of its own would measure for itself what "auto" stands for, and the runs of one sweep could come to different
answers. So it is measured once for each network.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from time import monotonic, perf_counter
from typing import Any, NamedTuple

from betavae_fast.choices import Precision
from betavae_fast.data.images import ImageDataset
from betavae_fast.sweep.folder import Standing
from betavae_fast.sweep.grid import SweptRun
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
    time: Callable[[TrainConfig], Timing | None],
) -> tuple[list[SweptRun], dict[str, Timing]]:
    """Time every kind of run once, and give the runs of each network one precision.

    A network that a run has begun to train keeps that run's precision.

    Args:
        standings: how far each run is, by its name.
        time: measures a run with a configuration, where the runs will be trained; None if its training fails.
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
            by_kind[kind] = time(config)
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

    The time of validations, scores and pictures is not counted, nor is that which patience saves.
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


def time_run(config: TrainConfig, dataset: ImageDataset | None) -> Timing:
    """Time a few steps of a run with ``config``, and the encoding of a few images.

    Args:
        dataset: the images, if they are loaded already.
    Raises: the errors of training.
    """
    from betavae_fast.evaluation.encoding import encode
    from betavae_fast.evaluation.summary import choose_images
    from betavae_fast.training import loop, process
    from betavae_fast.training.trained_run import load_images

    process.keep_freed_memory()
    process.set_threads(config.threads)
    config = replace(
        config,
        steps=10**9,
        log_every=_LOG_EVERY,
        checkpoint_every=10**9,
        validation=None,
        validation_every=None,
        patience=None,
    )
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

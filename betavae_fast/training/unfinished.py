"""Finds out which schedules are longer than the run, which then ends before their last value is reached."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial, singledispatch
from typing import NamedTuple

import torch

from betavae_fast.objectives.options import BetaOptions, BetaTCOptions, CapacityOptions, ObjectiveOptions
from betavae_fast.objectives.schedules import geometric, ramp
from betavae_fast.training.config import TrainConfig


class Schedule(NamedTuple):
    """A weight of an objective, or the learning rate, that changes with the steps."""

    option: str  # the options that set its length
    steps: int  # the step at which it ends; 0 if it never changes
    name: str  # of what changes, in a formula or in words
    value: Callable[[int], float]  # after that many steps
    unit: str = ""


@singledispatch
def schedules(options: ObjectiveOptions) -> list[Schedule]:
    """The schedules of the objective with these ``options``.

    >>> (found,) = schedules(CapacityOptions(25.0, steps=100_000))
    >>> found.steps, found.value(2500)
    (100000, 0.625)
    """
    return []


@schedules.register
def _(options: BetaOptions) -> list[Schedule]:
    if options.start is not None:
        fall = partial(_fallen, options.start, options.beta, options.hold, options.steps)
        return [Schedule("beta_hold + beta_steps", options.hold + options.steps, "β", fall)]
    return [Schedule("beta_warmup", options.warmup, "β", partial(_grown, options.beta, options.warmup))]


@schedules.register
def _(options: BetaTCOptions) -> list[Schedule]:
    falls = (
        ("weights_steps", options.start, options.steps, "the factor of the weights"),
        ("tc_steps", options.tc_start, options.tc_steps, "the further factor of tc_weight"),
    )
    return [
        Schedule(
            f"weights_hold + {option}",
            options.hold + steps,
            name,
            partial(_fallen, start, 1.0, options.hold, steps),
        )
        for option, start, steps, name in falls
        if start is not None
    ]


@schedules.register
def _(options: CapacityOptions) -> list[Schedule]:
    growth = partial(_grown, options.capacity, options.steps)
    return [Schedule("capacity_steps", options.steps, "C", growth, " nats")]


def _grown(end: float, length: int, steps: int) -> float:
    return float(ramp(torch.tensor(steps), end, length))


def _fallen(start: float, end: float, hold: int, length: int, steps: int) -> float:
    return float(geometric(torch.tensor(steps), start, end, hold, length))


def unfinished(config: TrainConfig) -> Iterator[str]:
    """The warnings for schedules that are longer than the run, each in one line.

    >>> list(unfinished(TrainConfig(objective=CapacityOptions(), steps=2500)))
    ['capacity_steps is 100000, but the run has 2500 steps: C ends at 0.625 nats, not 25']
    """
    warmup = Schedule(
        "lr_warmup",
        config.lr_warmup,
        "the learning rate's factor",
        partial(_grown, 1.0, config.lr_warmup),
    )
    for found in (*schedules(config.objective), warmup):
        reached, end = (f"{found.value(steps):g}" for steps in (config.steps, found.steps))
        # They are equal for a schedule from 0 to 0, or if the run is short of it by less than the digits show.
        if found.steps > config.steps and reached != end:
            yield (
                f"{found.option} is {found.steps}, but the run has {config.steps} steps: "
                f"{found.name} ends at {reached}{found.unit}, not {end}"
            )
    if config.lr_hold >= config.steps:
        yield f"lr_hold is {config.lr_hold}, but the run has {config.steps} steps: the learning rate never falls"


def warn_of_unfinished(configs: Iterable[TrainConfig]) -> None:
    """Warn of every schedule that is longer than its run, once for runs that share it."""
    for message in dict.fromkeys(message for config in configs for message in unfinished(config)):
        warnings.warn(message, stacklevel=3)

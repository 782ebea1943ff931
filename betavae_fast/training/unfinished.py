"""Finds out whether an objective's schedule is longer than the run, which then ends before its weight is reached."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial, singledispatch
from typing import NamedTuple

import torch

from betavae_fast.objectives.options import BetaOptions, BetaTCOptions, CapacityOptions, ObjectiveOptions
from betavae_fast.objectives.schedules import geometric, ramp
from betavae_fast.training.config import TrainConfig


class Schedule(NamedTuple):
    """A weight of an objective that changes with the steps."""

    option: str  # the options that set its length
    steps: int  # the step at which it ends; 0 if it never changes
    name: str  # of the weight, in a formula
    value: Callable[[int], float]  # after that many steps
    unit: str = ""


@singledispatch
def schedule(options: ObjectiveOptions) -> Schedule | None:
    """The schedule of the objective with these ``options``; None if it has none.

    >>> found = schedule(CapacityOptions(25.0, steps=100_000))
    >>> found.steps, found.value(2500)
    (100000, 0.625)
    """
    return None


@schedule.register
def _(options: BetaOptions) -> Schedule:
    if options.start is not None:
        fall = partial(_fallen, options.start, options.beta, options.hold, options.steps)
        return Schedule("beta_hold + beta_steps", options.hold + options.steps, "β", fall)
    return Schedule("beta_warmup", options.warmup, "β", partial(_grown, options.beta, options.warmup))


@schedule.register
def _(options: BetaTCOptions) -> Schedule | None:
    if options.start is None:
        return None
    fall = partial(_fallen, options.start, 1.0, options.hold, options.steps)
    length = options.hold + options.steps
    return Schedule("weights_hold + weights_steps", length, "the factor of the weights", fall)


@schedule.register
def _(options: CapacityOptions) -> Schedule:
    growth = partial(_grown, options.capacity, options.steps)
    return Schedule("capacity_steps", options.steps, "C", growth, " nats")


def _grown(end: float, length: int, steps: int) -> float:
    return float(ramp(torch.tensor(steps), end, length))


def _fallen(start: float, end: float, hold: int, length: int, steps: int) -> float:
    return float(geometric(torch.tensor(steps), start, end, hold, length))


def unfinished(config: TrainConfig) -> str | None:
    """The warning for a schedule that is longer than the run, in one line; None if there is none.

    >>> unfinished(TrainConfig(objective=CapacityOptions(), steps=2500))
    'capacity_steps is 100000, but the run has 2500 steps: C ends at 0.625 nats, not 25'
    """
    found = schedule(config.objective)
    if found is None or found.steps <= config.steps:
        return None
    reached, end = (f"{found.value(steps):g}" for steps in (config.steps, found.steps))
    if reached == end:  # a schedule from 0 to 0, or a run that is short of it by less than the digits show
        return None
    return (
        f"{found.option} is {found.steps}, but the run has {config.steps} steps: "
        f"{found.name} ends at {reached}{found.unit}, not {end}"
    )


def warn_of_unfinished(configs: Iterable[TrainConfig]) -> None:
    """Warn of every schedule that is longer than its run, once for runs that share it."""
    for message in dict.fromkeys(map(unfinished, configs)):
        if message is not None:
            warnings.warn(message, stacklevel=3)

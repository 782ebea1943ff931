"""The grid of a sweep: every combination of settings, each a run with a name.

Nothing heavy is imported: the command line reads its options here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_origin

from betavae_fast.objectives import options
from betavae_fast.objectives.options import OBJECTIVES, BetaOptions
from betavae_fast.settings import Declared, declared
from betavae_fast.training import recipes
from betavae_fast.training.config import TrainConfig

SEED = "seed"


@dataclass(frozen=True)
class SweptRun:
    """A run of a sweep.

    Attributes:
        name: the name of its folder, made of the settings that vary.
        setting: what varies, without the seed: the runs of one setting differ by their seeds alone.
        config: all its settings.
    """

    name: str
    setting: dict[str, Any]
    config: TrainConfig


def grid(entries: Mapping[str, Any]) -> list[SweptRun]:
    """Make the runs of a sweep from settings by their names on the command line.

    A list is an axis of the grid: each combination of the axes' values is a run. An option of some objectives varies for
    these alone. ``recipe`` names the protocol whose values the settings have that are not in ``entries``; those of its
    objective's options are for this objective alone.

    Raises: ValueError for an unknown name or recipe, a value out of its range, an axis without values or with a value
        twice, an option that no objective of the sweep has, or batch_size auto.

    >>> [run.name for run in grid({"objective": ["beta", "capacity"], "beta": [1.0, 4.0], "seed": [0, 1]})]
    ... # doctest: +NORMALIZE_WHITESPACE
    ['objective=beta,beta=1,seed=0', 'objective=beta,beta=1,seed=1', 'objective=beta,beta=4,seed=0',
     'objective=beta,beta=4,seed=1', 'objective=capacity,seed=0', 'objective=capacity,seed=1']
    """
    recipe = entries.get("recipe")
    own_objective = BetaOptions.objective if recipe is None else recipes.entries(recipe)["objective"]
    axes = {name: _values(name, value) for name, value in entries.items() if name != "recipe"}
    objectives = axes.pop("objective", [own_objective])
    _check_names(axes, objectives)
    seeds = axes.pop(SEED, [0])
    varying = [name for name, values in axes.items() if len(values) > 1]
    runs: list[SweptRun] = []
    for objective in objectives:
        own = {name: values for name, values in axes.items() if _belongs(name, objective)}
        for combination in product(*own.values()):
            chosen = dict(zip(own, combination, strict=True))
            setting = {name: value for name, value in chosen.items() if name in varying}
            if len(objectives) > 1:
                setting = {"objective": objective, **setting}
            for seed in seeds:
                given = {"recipe": recipe, "objective": objective, **chosen, SEED: seed}
                config = TrainConfig.from_entries(recipes.applied(given))
                runs.append(SweptRun(_name({**setting, SEED: seed}), setting, config))
    if any(run.config.batch_size == "auto" for run in runs):
        raise ValueError(
            "a sweep needs batch_size as a number: how many images fit depends on the runs beside it"
        )
    names = [run.name for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"two runs of the sweep would share the folder {min(twice)}; give their values other names"
        )
    return runs


def settings_by_option() -> dict[str, Declared]:
    """Every setting that a sweep may vary, by its name on the command line; an objective's option in one of its forms."""
    own = {found.name: found for found in declared(TrainConfig)}
    return own | {option: next(iter(by.values())) for option, by in options.by_option().items()}


def _values(name: str, value: Any) -> Sequence[Any]:
    """The values of an axis. A list-valued setting is one value, and an axis of it is a list of lists."""
    found = settings_by_option().get(name)
    is_axis = isinstance(value, list)
    if found is not None and get_origin(found.type) is list:
        is_axis = is_axis and bool(value) and isinstance(value[0], list)
    values = value if is_axis else [value]
    if not values:
        raise ValueError(f"{name} has no values")
    for i, one in enumerate(values):
        if one in values[:i]:
            raise ValueError(f"{name} has the value {one} twice")
    return values


def _check_names(axes: Mapping[str, Any], objectives: Sequence[str]) -> None:
    for objective in objectives:
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}; got {objective!r}")
    by_option, known = options.by_option(), settings_by_option()
    for name in axes:
        if name not in known:
            raise ValueError(
                f"a sweep has no setting {name!r}; it takes recipe, objective, {', '.join(known)}"
            )
        if name in by_option and not by_option[name].keys() & set(objectives):
            raise ValueError(
                f"{name} is an option of objective {' and '.join(by_option[name])}, which this sweep does not train"
            )


def _belongs(name: str, objective: str) -> bool:
    by_objective = options.by_option().get(name)
    return by_objective is None or objective in by_objective


def _name(values: Mapping[str, Any]) -> str:
    """The name of a run's folder."""
    return ",".join(f"{name}={_word(name, value)}" for name, value in values.items())


def _word(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = Path(value).stem if name in ("data", "validation") else str(value)
    return re.sub(r"[^A-Za-z0-9.+_-]+", "_", text).strip("_")

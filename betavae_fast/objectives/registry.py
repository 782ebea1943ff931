"""The construction of an objective from its name and options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from betavae_fast.choices import OBJECTIVE_OPTIONS, ObjectiveName
from betavae_fast.objectives.beta import Beta
from betavae_fast.objectives.beta_per_dim import BetaPerDim
from betavae_fast.objectives.beta_tc import BetaTC
from betavae_fast.objectives.capacity import Capacity
from betavae_fast.objectives.dip import DIPVAEI, DIPVAEII
from betavae_fast.objectives.factor import FactorVAE
from betavae_fast.objectives.free_bits import FreeBits
from betavae_fast.objectives.geco import Geco
from betavae_fast.objectives.interface import Objective
from betavae_fast.objectives.lagrangian import Lagrangian

_MAKERS: dict[ObjectiveName, Callable[..., Objective]] = {
    "beta": Beta,
    "capacity": Capacity,
    "free-bits": FreeBits,
    "lagrangian": Lagrangian,
    "geco": Geco,
    "beta-per-dim": BetaPerDim,
    "btcvae": BetaTC,
    "factorvae": FactorVAE,
    "dipvae-i": DIPVAEI,
    "dipvae-ii": DIPVAEII,
}


def build(name: ObjectiveName, options: Mapping[str, Any], **facts: Any) -> Objective:
    """Build the objective ``name``.

    Args:
        options: options of all objectives, by name. The objective gets those that ``OBJECTIVE_OPTIONS`` lists for it and
            that are not None.
        facts: further arguments, for objectives that take them: ``latent_dim``, ``dataset_size``, ``backend``.
    Raises: ValueError for an option out of its range.

    >>> build("capacity", {"capacity": 10.0, "capacity_steps": None, "beta": 4.0}).steps
    100000
    """
    maker = _MAKERS[name]
    arguments = {
        argument: options[option]
        for option, argument in OBJECTIVE_OPTIONS[name].items()
        if options.get(option) is not None
    }
    known = inspect.signature(maker).parameters
    return maker(**arguments, **{fact: value for fact, value in facts.items() if fact in known})

"""The construction of an objective from its options."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

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
from betavae_fast.objectives.options import ObjectiveOptions

_CLASSES: dict[str, type[Objective]] = {
    kind.objective: kind
    for kind in (Beta, Capacity, FreeBits, Lagrangian, Geco, BetaPerDim, BetaTC, FactorVAE, DIPVAEI, DIPVAEII)
}


def build(options: ObjectiveOptions, **facts: Any) -> Objective:
    """Build the objective that has these ``options``.

    Args:
        facts: what the objectives may need to know about the run besides their options: ``latent_dim``,
            ``dataset_size``, ``backend``. An objective gets those that it has a field for.

    >>> from betavae_fast.objectives.options import CapacityOptions
    >>> build(CapacityOptions(10.0), latent_dim=5).steps
    100000
    """
    kind = _CLASSES[options.objective]
    wanted = {field.name for field in fields(kind)}
    return kind(**vars(options), **{name: fact for name, fact in facts.items() if name in wanted})

"""Training objectives. Each weighs the KL, or parts of it, against the reconstruction, and may change this weight.

An objective is a module that is called with :class:`LossInputs`; :class:`Objective` shows it in a loop of your own.

The names below are imported when the first of them is used, and torch with them: the command line needs only
:mod:`betavae_fast.objectives.options`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from betavae_fast.objectives.beta import Beta
    from betavae_fast.objectives.beta_per_dim import BetaPerDim
    from betavae_fast.objectives.beta_tc import BetaTC
    from betavae_fast.objectives.capacity import Capacity
    from betavae_fast.objectives.dip import DIPVAEI, DIPVAEII
    from betavae_fast.objectives.factor import FactorVAE
    from betavae_fast.objectives.free_bits import FreeBits
    from betavae_fast.objectives.geco import Geco
    from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
    from betavae_fast.objectives.lagrangian import Lagrangian
    from betavae_fast.objectives.schedules import geometric, ramp

__all__ = [
    "DIPVAEI",
    "DIPVAEII",
    "Beta",
    "BetaPerDim",
    "BetaTC",
    "Capacity",
    "FactorVAE",
    "FreeBits",
    "Geco",
    "Lagrangian",
    "LossInputs",
    "Objective",
    "ObjectiveOutput",
    "geometric",
    "ramp",
]


def __getattr__(name: str) -> Any:
    """Import all public names at once when the first of them is used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for file in ("registry", "interface", "schedules"):
        module = import_module(f"{__name__}.{file}")
        globals().update({public: getattr(module, public) for public in __all__ if hasattr(module, public)})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Training objectives: what weighs the KL, or a part of it, against the reconstruction, and how that weight moves.

Each is a module called with :class:`LossInputs`, alone or in a loop of your own (see :class:`Objective`).
"""

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
from betavae_fast.objectives.schedules import ramp

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
    "ramp",
]

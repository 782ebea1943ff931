"""Training objectives. Each weighs the KL, or parts of it, against the reconstruction, and may change this weight.

An objective is a module that is called with :class:`LossInputs`; :class:`Objective` shows it in a loop of your own.
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

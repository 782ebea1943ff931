"""Pictures a person reads. Each function takes arrays and returns a figure; none of them knows a model.

Figures are made without pyplot: no global state, and no display needed.
"""

from .factors import code_against_factor, information, position_maps
from .image_grids import reconstructions, traversal, traversal_frames
from .posterior import aggregated_posterior
from .runs import rate_distortion
from .style import DISPERSION_COLOUR, FADED, VARIANCE_COLOUR, Images, save
from .training import capacity

__all__ = [
    "DISPERSION_COLOUR",
    "FADED",
    "VARIANCE_COLOUR",
    "Images",
    "aggregated_posterior",
    "capacity",
    "code_against_factor",
    "information",
    "position_maps",
    "rate_distortion",
    "reconstructions",
    "save",
    "traversal",
    "traversal_frames",
]

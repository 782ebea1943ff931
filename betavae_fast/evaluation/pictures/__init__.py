"""Draws figures. Each function takes arrays and returns a figure; none of them needs a model.

Figures are made without pyplot, so that they need no display and leave no global state.
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

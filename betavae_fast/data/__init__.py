"""Data sets held in memory, and batches made of them on whichever device they are.

The trainer uses an `ImageDataset` and nothing else of it than: `.name`, `.image_shape` = (C, H, W), `len()`,
`.gather(indices)` -> bool or uint8 (B, C, H, W), `.to(device)`, and `.mean_image()`. Where the generative
factors are known it is also a `KnownFactors`: `.factor_names`, `.factor_sizes`, `.factor_bases`,
`.factor_values`, `.factors(indices)` and its inverse `.index(factors)`.
"""

from .dsprites import DSprites
from .errors import DatasetError
from .factors import KnownFactors
from .images import BinaryImages, ByteImages, ImageDataset
from .load import NAMES, load_dataset

__all__ = [
    "NAMES",
    "BinaryImages",
    "ByteImages",
    "DSprites",
    "DatasetError",
    "ImageDataset",
    "KnownFactors",
    "load_dataset",
]

"""Data sets that make batches of images on their own device.

The trainer uses only these members of an `ImageDataset`: `.name`, `.image_shape` = (C, H, W), `len()`,
`.gather(indices)` -> bool or uint8 (B, C, H, W), `.to(device)`, `.mean_image()` and `.identity`. A data set whose
generative factors are known is also a `KnownFactors`: `.factor_names`, `.factor_sizes`, `.factor_bases`,
`.factor_values`, `.factors(indices)` and its inverse `.index(factors)`.
"""

from .arrays import DiskImages
from .dsprites import DSprites
from .errors import DatasetError
from .factors import KnownFactors
from .folder import FolderImages
from .identity import DataIdentity
from .images import BinaryImages, ByteImages, ImageDataset
from .load import NAMES, absolute, is_present, load_dataset, open_dataset

__all__ = [
    "NAMES",
    "BinaryImages",
    "ByteImages",
    "DSprites",
    "DataIdentity",
    "DatasetError",
    "DiskImages",
    "FolderImages",
    "ImageDataset",
    "KnownFactors",
    "absolute",
    "is_present",
    "load_dataset",
    "open_dataset",
]

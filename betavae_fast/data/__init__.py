"""Data sets that make batches of images on their own device.

The trainer uses only these members of an `ImageDataset`: `.name`, `.image_shape` = (C, H, W), `len()`,
`.gather(indices)` -> bool or uint8 (B, C, H, W), `.to(device)`, `.mean_image()` and `.identity`. A data set whose
generative factors are known is also a `KnownFactors`: `.factor_names`, `.factor_sizes`, `.factor_values` and
`.factors(indices)`. It is a `TableFactors`, or a `GridFactors`, which has `.factor_bases` and the inverse
`.index(factors)`.
"""

from .arrays import DiskImages
from .dsprites import DSprites
from .errors import DatasetError
from .factor_file import with_factors
from .factors import GridFactors, KnownFactors, TableFactors
from .folder import FolderImages
from .identity import DataIdentity
from .images import BinaryImages, ByteImages, ImageDataset
from .labelled import GridImages, LabelledImages, TableImages
from .load import NAMES, absolute, absolute_file, is_present, load_dataset, open_dataset

__all__ = [
    "NAMES",
    "BinaryImages",
    "ByteImages",
    "DSprites",
    "DataIdentity",
    "DatasetError",
    "DiskImages",
    "FolderImages",
    "GridFactors",
    "GridImages",
    "ImageDataset",
    "KnownFactors",
    "LabelledImages",
    "TableFactors",
    "TableImages",
    "absolute",
    "absolute_file",
    "is_present",
    "load_dataset",
    "open_dataset",
    "with_factors",
]

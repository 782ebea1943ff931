"""Images in a NumPy file."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from .bits import pack_bits
from .errors import DatasetError
from .images import BinaryImages, ByteImages, ImageDataset

# Names people give the images when an npz holds other arrays (labels, factors) beside them.
_USUAL_NAMES = ("images", "imgs", "x_train", "x", "data", "arr_0")
_IMAGES_AT_ONCE = 1024


def load_array(path: Path) -> ImageDataset:
    """Images from an .npy or .npz file.

    An .npz holds one array, or one named images, imgs, x_train, x, data or arr_0 beside others. The array is
    (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3; bool, uint8 0 to 255, or floating point in [0, 1],
    which is rounded to 8 bits. Arrays that hold nothing but 0 and 1 are binary. Nothing is ever unpickled.

    Returns: `BinaryImages` or `ByteImages`.
    Raises: DatasetError if the file is damaged or the array is not as above.
    """
    array = _channels_first(_read(path), path)
    if array.dtype == np.bool_:
        pixels, binary = array, True
    elif array.dtype == np.uint8:
        pixels, binary = array, bool(array.max() <= 1)
    elif np.issubdtype(array.dtype, np.floating):
        pixels, binary = _quantise(array, path)
        if binary:
            pixels = pixels // 255
    else:
        raise DatasetError(
            f"{path}: images must be bool, uint8 or floating point in [0, 1], got {array.dtype}"
        )
    _, channels, height, width = pixels.shape
    if binary:
        return BinaryImages(str(path), torch.from_numpy(pack_bits(pixels)), (channels, height, width))
    store = torch.from_numpy(np.ascontiguousarray(pixels))
    return ByteImages(str(path), store, (channels, height, width))


def _read(path: Path) -> npt.NDArray[Any]:
    """The array of images in the file, whatever its dtype and shape."""
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return _whole(content, file, path)
            with content:
                usual = [name for name in _USUAL_NAMES if name in content.files]
                if len(content.files) != 1 and not usual:
                    found = ", ".join(content.files) or "it has no arrays"
                    raise DatasetError(
                        f"{path}: cannot tell which array holds the images ({found}): name it {_USUAL_NAMES[0]}"
                    )
                with content.zip.open(f"{usual[0] if usual else content.files[0]}.npy") as member:
                    return _whole(np.lib.format.read_array(member, allow_pickle=False), member, path)
    except (DatasetError, FileNotFoundError):
        raise
    except Exception as error:
        # NumPy and zipfile raise a dozen types for damaged files (zlib.error, RuntimeError for a flipped
        # "encrypted" bit, MemoryError for a corrupt shape, ...): whichever it is, the file is not readable.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(f"{path}: not a readable array file: {reason}") from error


def _whole(array: npt.NDArray[Any], file: IO[bytes], path: Path) -> npt.NDArray[Any]:
    """The array just read from `file`, if that ends here: a damaged header may promise less than there is, and
    a zip member's checksum is compared at its end."""
    if file.read(1):
        raise DatasetError(f"{path}: damaged: it has more data than an array of shape {array.shape}")
    return array


def _channels_first(array: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """The array as (N, C, H, W), without a copy."""
    if 0 in array.shape:
        raise DatasetError(f"{path}: no images: its shape is {array.shape}")
    if array.ndim == 3:
        return array[:, None]
    first, last = (array.ndim == 4 and array.shape[axis] in (1, 3) for axis in (1, 3))
    if first and last:
        raise DatasetError(
            f"{path}: shape {array.shape} may be (N, C, H, W) or (N, H, W, C); make it unambiguous"
        )
    if first:
        return array
    if last:
        channels_first: npt.NDArray[Any] = array.transpose(0, 3, 1, 2)
        return channels_first
    raise DatasetError(
        f"{path}: images must have shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, "
        f"got {array.shape}"
    )


def _quantise(array: npt.NDArray[Any], path: Path) -> tuple[npt.NDArray[np.uint8], bool]:
    """Floats in [0, 1] to 0…255, and whether every one of them was 0 or 1."""
    pixels = np.empty(array.shape, np.uint8)
    binary = True
    for start in range(0, len(array), _IMAGES_AT_ONCE):
        block = array[start : start + _IMAGES_AT_ONCE]
        if not ((block >= 0) & (block <= 1)).all():  # written so that NaN fails too
            raise DatasetError(
                f"{path}: floating-point pixels must lie in [0, 1], got {block.min():g} to {block.max():g} "
                f"in images {start} to {start + len(block) - 1}"
            )
        binary = binary and bool(((block == 0) | (block == 1)).all())
        pixels[start : start + _IMAGES_AT_ONCE] = np.rint(block * 255)
    return pixels, binary

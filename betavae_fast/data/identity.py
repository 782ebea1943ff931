"""The identity of a data set, to compare whether two sets hold the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .images import ImageDataset

_READ_WHOLE = 1 << 30
_SAMPLES, _SAMPLE_BYTES = 64, 4 << 20
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class DataIdentity:
    """The number of images, the shape of each, and the SHA-256 of their pixels.

    Sets with the same images in the same order have the same identity, however they are stored.
    """

    images: int
    image_shape: tuple[int, int, int]
    checksum: str

    def __str__(self) -> str:
        shape = "×".join(map(str, self.image_shape))
        return f"{self.images:,} images of {shape} with SHA-256 {self.checksum[:12]}"

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> DataIdentity:
        """The identity from the JSON of its ``dataclasses.asdict``."""
        channels, height, width = entry["image_shape"]
        return cls(int(entry["images"]), (int(channels), int(height), int(width)), str(entry["checksum"]))


def describe_difference(dataset: ImageDataset, expected: DataIdentity | None) -> str | None:
    """A sentence that says how ``dataset`` differs from the images a run was trained on, or None if it does not.

    It is also None if ``expected`` is None, as for a run by a version that recorded no identity.
    """
    if expected is None or dataset.identity == expected:
        return None
    return f"{dataset.name} has {dataset.identity}, but the run was trained on {expected}"


def identify(dataset: ImageDataset) -> DataIdentity:
    """Compute the identity of ``dataset``.

    The checksum covers every pixel of a set of up to 1 GiB (dSprites: 377 MB, a fifth of a second with the CPU's SHA
    instructions). Of a larger set it covers 64 evenly spaced pieces of 4 MiB, including the first and the last images.

    >>> import torch
    >>> from betavae_fast.data import ByteImages
    >>> str(identify(ByteImages("black", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), (1, 4, 4))))
    '2 images of 1×4×4 with SHA-256 66687aadf862'
    """
    count = len(dataset)
    row_bytes = max(1, dataset.canonical_bytes(0, 1).size)
    return DataIdentity(
        count,
        dataset.image_shape,
        checksum(count, row_bytes, lambda *rows: dataset.canonical_bytes(*rows).data),
    )


def checksum(count: int, row_bytes: int, read: Callable[[int, int], Buffer]) -> str:
    """The SHA-256 of ``count`` rows of ``row_bytes`` bytes, in hex: of all bytes up to 1 GiB, else of 64 pieces.

    Args:
        read: returns the bytes of the rows from a first one to a last one, which is not included.
    """
    digest = hashlib.sha256()
    step = max(1, _BLOCK_BYTES // row_bytes)
    if count * row_bytes <= _READ_WHOLE:
        pieces = [(start, min(start + step, count)) for start in range(0, count, step)]
    else:
        length = max(1, _SAMPLE_BYTES // row_bytes)
        starts = [round(i * (count - length) / (_SAMPLES - 1)) for i in range(_SAMPLES)]
        pieces = [(start, start + length) for start in starts]
    for start, stop in pieces:
        digest.update(read(start, stop))
    return digest.hexdigest()

"""MNIST and Fashion-MNIST from their standard idx files."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from .cache import cache_directory
from .download import download
from .errors import DatasetError, memory_for
from .images import ByteImages

IMAGES_FILE = "train-images-idx3-ubyte"
DEFAULT_SIZE = 32

_GZIP_RATIO = 1032  # the most bytes that deflate packs into one
_MAGIC = 0x00000803  # unsigned bytes (08) in three dimensions (03)


@dataclass(frozen=True)
class Source:
    """The published address of a data set's training images, and torchvision's folder of them."""

    url: str
    size: int
    sha256: str
    torchvision: str  # folder of torchvision's unpacked copy, under its root
    hint: str  # what to do if the download fails


SOURCES = {
    "mnist": Source(
        url="https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        size=9912422,
        sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        torchvision="MNIST",
        hint="give the path of train-images-idx3-ubyte.gz instead of the name",
    ),
    "fashion-mnist": Source(
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
        size=26421880,
        sha256="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        torchvision="FashionMNIST",
        hint="install Debian's package dataset-fashion-mnist, or give the path of train-images-idx3-ubyte.gz",
    ),
}
"""Data sets known by name."""


def find_images_file(folder: Path) -> Path | None:
    """The idx file of a folder's training images, else of its test images (t10k), gzipped or not; None without any."""
    for part, joint, packed in product(("train", "t10k"), "-.", (".gz", "")):
        path = folder / f"{part}-images{joint}idx3-ubyte{packed}"
        if path.is_file():
            return path
    return None


def is_images_file(path: Path) -> bool:
    """True if a file has the name of an idx file of images.

    Such names end in ``images-idx3-ubyte`` or ``images.idx3-ubyte``, with or without ``.gz``.
    """
    return path.name.removesuffix(".gz").endswith(("images-idx3-ubyte", "images.idx3-ubyte"))


def load_named_idx(
    name: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    progress: bool = True,
) -> ByteImages:
    """Load the 60,000 training images of "mnist" or "fashion-mnist", as `load_idx` does.

    The file is taken from the first of these folders that has it: the cache folder, /usr/share/datasets/<name> (Debian's
    dataset-fashion-mnist), /usr/local/share/datasets/<name>, and torchvision's data/<MNIST|FashionMNIST>/raw below the
    working directory. Otherwise it is downloaded into the cache from the published address and checked by size and
    SHA-256.

    Raises: DatasetError, with a remedy, if the images are in none of the folders and cannot be downloaded.
    """
    source = SOURCES[name]
    cached = cache_directory(cache_dir) / name
    folders = [
        cached,
        Path("/usr/share/datasets", name),
        Path("/usr/local/share/datasets", name),
        Path("data", source.torchvision, "raw"),
    ]
    found = filter(None, map(find_images_file, folders))
    path = next((path for path in found if path.name.startswith("train-")), None)
    if path is None:
        path = cached / f"{IMAGES_FILE}.gz"
        try:
            download(source.url, path, size=source.size, sha256=source.sha256, progress=progress)
        except (OSError, DatasetError) as error:
            looked = ", ".join(map(str, folders))
            raise DatasetError(
                f"{name}: no {IMAGES_FILE}.gz in {looked}, and the download failed ({error}); {source.hint}"
            ) from error
    return load_idx(path, name=name, image_size=image_size)


def load_idx(path: Path, *, name: str | None = None, image_size: int | None = None) -> ByteImages:
    """Load an idx3 file of images, gzipped or not: uint8 (B, 1, S, S).

    Args:
        name: name of the data set; the path by default.
        image_size: S, at least the stored size; a black border of equal width fills the difference. It is 32 by
            default (28 in the file), so that stride-2 convolutions divide it evenly.
    Raises: DatasetError if the file is damaged; ValueError if `image_size` does not fit.
    """
    pixels = read_idx_images(path)
    images, height, width = pixels.shape
    if image_size is None:
        image_size = DEFAULT_SIZE if max(height, width) <= DEFAULT_SIZE else max(height, width)
    rows, columns = image_size - height, image_size - width
    if min(rows, columns) < 0:
        raise ValueError(f"{path}: image_size must be at least the stored {height}×{width}, got {image_size}")
    with memory_for(
        f"{path} with its border", images * image_size**2, "choose a smaller image_size (--image-size)"
    ):
        padded = np.zeros((images, 1, image_size, image_size), np.uint8)
    padded[:, 0, rows // 2 : rows // 2 + height, columns // 2 : columns // 2 + width] = pixels
    return ByteImages(name or str(path), torch.from_numpy(padded), (1, image_size, image_size))


def read_idx_images(path: Path) -> npt.NDArray[np.uint8]:
    """Read an idx3 file of unsigned bytes, gzipped if its name ends in .gz: uint8 (N, H, W).

    Raises: DatasetError if it is no such file, or if it is shorter or longer than its header says.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            header = file.read(16)
            if len(header) < 16:
                raise DatasetError(f"{path}: not an idx file of images: it ends in its header")
            magic, *shape = struct.unpack(">4I", header)
            if magic != _MAGIC:
                raise DatasetError(
                    f"{path}: not an idx file of images: it starts with {magic:#010x}, not {_MAGIC:#010x}"
                )
            images, height, width = shape
            if 0 in shape:
                raise DatasetError(f"{path}: empty: its header says {images} images of {height}×{width}")
            expected = images * height * width
            # A corrupt header may promise terabytes: check memory only for the bytes that the file can hold, and read
            # them in pieces.
            largest = path.stat().st_size * (_GZIP_RATIO if path.suffix == ".gz" else 1)
            content = bytearray()
            with memory_for(
                str(path),
                min(expected, largest),
                "save the images as a uint8 .npy array, which is read from disk",
            ):
                while len(content) <= expected and (
                    chunk := file.read(min(1 << 24, expected + 1 - len(content)))
                ):
                    content += chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path}: damaged gzip file: {error}") from error
    if len(content) != expected:
        found = "more" if len(content) > expected else f"{len(content)}"
        raise DatasetError(
            f"{path}: its header says {images} images of {height}×{width}, {expected} bytes, found {found}"
        )
    return np.frombuffer(content, np.uint8).reshape(images, height, width)

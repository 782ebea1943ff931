"""A thousand random damages to each kind of data file: each is named in one line or has no effect."""

from __future__ import annotations

import gzip
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from betavae_fast.data import DatasetError, ImageDataset, load_dataset
from betavae_fast.data import dsprites as module
from betavae_fast.data.cache import read_rows, write_rows
from betavae_fast.data.dsprites import PUBLISHED_NAME, git_blob_id

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (5, 12, 12), dtype=np.uint8)
BITS = GENERATOR.integers(0, 2, (6, 64, 64), dtype=np.uint8)
VALUES = (np.ones(1), np.arange(1.0, 4), np.ones(1), np.ones(1), np.linspace(0, 1, 2), np.ones(1))
FLIPS = 1000


def write_npy(folder: Path) -> Path:
    np.save(folder / "images.npy", PIXELS)
    return folder / "images.npy"


def write_npz(folder: Path) -> Path:
    np.savez(folder / "images.npz", images=PIXELS, labels=np.arange(5))
    return folder / "images.npz"


def write_compressed_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "images.npz", images=PIXELS, labels=np.arange(5))
    return folder / "images.npz"


def write_idx(folder: Path) -> Path:
    path = folder / "images-idx3-ubyte"
    path.write_bytes(struct.pack(">4I", 0x803, *PIXELS.shape) + PIXELS.tobytes())
    return path


def write_idx_gz(folder: Path) -> Path:
    path = folder / "images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(write_idx(folder).read_bytes(), mtime=0))
    return path


def write_png(folder: Path) -> Path:
    path = folder / "images" / "a.png"
    path.parent.mkdir()
    # Few bytes unfold to many, and some flips pass the decoding.
    Image.fromarray((2 * np.add.outer(np.arange(64), np.arange(64))).astype(np.uint8)).save(path)
    return path


def write_dsprites(folder: Path) -> Path:
    classes = np.stack(np.unravel_index(np.arange(6), [len(values) for values in VALUES]), axis=1)
    latents = np.stack([values[column] for values, column in zip(VALUES, classes.T, strict=True)], axis=1)
    path = folder / PUBLISHED_NAME
    np.savez_compressed(path, imgs=BITS, latents_classes=classes, latents_values=latents)
    return path


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package take the small archive of `write_dsprites` for the published file."""
    monkeypatch.setattr(module, "PUBLISHED_BLOB_ID", git_blob_id(write_dsprites(tmp_path)))
    monkeypatch.setattr(module, "FACTOR_VALUES", tuple(map(torch.from_numpy, VALUES)))
    monkeypatch.setenv("BETAVAE_FAST_CACHE", str(tmp_path / "cache"))


WRITERS: dict[Callable[[Path], Path], bool] = {
    # For each form: whether it has checksums, so that no flip may change a pixel unnoticed.
    write_npy: False,
    write_npz: True,
    write_compressed_npz: True,
    write_idx: False,
    write_idx_gz: True,
    write_png: True,
    write_dsprites: True,
}


def load(path: Path) -> ImageDataset | None:
    """Load the data set. None if it was refused correctly, in one line that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns about odd headers
            return load_dataset(path.parent if path.suffix == ".png" else path, progress=False)
    except DatasetError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return None


def flipped(whole: bytes, generator: random.Random) -> bytes:
    """Return ``whole`` with one bit changed: every other time in the headers, otherwise anywhere."""
    ends = [*range(min(200, len(whole))), *range(max(0, len(whole) - 200), len(whole))]
    position = generator.choice((generator.choice(ends), generator.randrange(len(whole))))
    damaged = bytearray(whole)
    damaged[position] ^= 1 << generator.randrange(8)
    return bytes(damaged)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.usefixtures("published")
def test_a_flipped_bit_is_named_or_harmless(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    whole, intact = path.read_bytes(), load(path)
    assert intact is not None
    generator, refused = random.Random(0), 0
    for _ in range(FLIPS):
        path.write_bytes(damaged := flipped(whole, generator))
        found = load(path)
        if found is None:
            refused += 1
            continue
        assert type(found) is type(intact)
        assert (found.image_shape, len(found)) == (intact.image_shape, len(intact))
        changed = int((found.store != intact.store).sum())
        assert changed <= (not WRITERS[write]), damaged[:200]
    assert refused


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.usefixtures("published")
def test_a_file_cut_short_or_gone_on_with_is_named(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    whole, intact = path.read_bytes(), load(path)
    generator = random.Random(0)
    for length in (0, 1, 10, len(whole) - 1, *(generator.randrange(len(whole)) for _ in range(100))):
        path.write_bytes(whole[:length])
        found = load(path)
        # The end of a PNG carries no pixels.
        assert found is None or (path.suffix == ".png" and torch.equal(found.store, intact.store)), length
    path.write_bytes(whole + bytes(7))
    found = load(path)
    assert found is None or torch.equal(found.store, intact.store)


class Bomb:
    """An object that does harm when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


def zipped(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "any.zip", "w") as archive:
        archive.writestr("images.npy", pickle.dumps(Bomb()))
    return (folder / "any.zip").read_bytes()


def promising(shape: str) -> bytes:
    """Make an npy file whose header claims this shape."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(100)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.usefixtures("published")
def test_another_file_in_its_place_is_named(
    tmp_path: Path, write: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path)
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([Bomb()], dtype=object), allow_pickle=True)
    for content in (
        b"",
        b"text\n",
        pickle.dumps(Bomb()),
        objects.read_bytes(),
        zipped(tmp_path),
        promising("(1000000000000000, 8, 8)"),
        promising("(9" + "9" * 5000 + ", 8, 8)"),
        promising("(" * 500),
        promising("(-1, 8, 8)"),
        promising("(True, 8, 8)"),
        struct.pack(">4I", 0x803, *[2**32 - 1] * 3),
        gzip.compress(bytes(100)),
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0, 0),
    ):
        path.write_bytes(content)
        assert load(path) is None, content[:40]
    assert not Path("unpickled").exists()


def test_a_flipped_bit_in_cached_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.bits"
    rows = GENERATOR.integers(0, 256, (50, 64), dtype=np.uint8)
    write_rows(path, rows)
    whole, generator = path.read_bytes(), random.Random(0)
    for _ in range(FLIPS):
        path.write_bytes(flipped(whole, generator))
        with pytest.raises(DatasetError, match=r"rows\.bits: damaged"):
            read_rows(path, rows.shape)

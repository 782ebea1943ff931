"""npy and npz files: every accepted form gives the same images, and every other form is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from betavae_fast.data import BinaryImages, ByteImages, DatasetError, ImageDataset, load_dataset

GENERATOR = np.random.default_rng(0)
BYTES = GENERATOR.integers(0, 256, (7, 3, 6, 5), dtype=np.uint8)
BITS = GENERATOR.random((7, 1, 6, 5)) < 0.5


def save(folder: Path, array: np.ndarray, name: str = "images.npy") -> Path:
    np.save(folder / name, array, allow_pickle=True)
    return folder / name


def pixels(dataset: ImageDataset) -> np.ndarray:
    return dataset.gather(torch.arange(len(dataset))).numpy()


@pytest.mark.parametrize(
    "array",
    [
        BYTES,
        BYTES.transpose(0, 2, 3, 1),
        np.asfortranarray(BYTES),
        BYTES / 255,
        (BYTES / 255).astype(np.float32),
        (BYTES / 255).astype(">f4"),
    ],
    ids=["NCHW", "NHWC", "fortran", "float64", "float32", "big-endian"],
)
def test_every_layout_and_dtype_gives_the_same_bytes(tmp_path: Path, array: np.ndarray) -> None:
    dataset = load_dataset(save(tmp_path, array))
    assert isinstance(dataset, ByteImages)
    assert dataset.image_shape == (3, 6, 5)
    assert np.array_equal(pixels(dataset), BYTES)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float16, np.float64])
@pytest.mark.parametrize("layout", ["NHW", "NCHW", "NHWC"])
def test_arrays_of_0_and_1_are_binary(tmp_path: Path, dtype: type, layout: str) -> None:
    array = {"NHW": BITS[:, 0], "NCHW": BITS, "NHWC": BITS.transpose(0, 2, 3, 1)}[layout]
    dataset = load_dataset(save(tmp_path, array.astype(dtype)))
    assert isinstance(dataset, BinaryImages)
    assert np.array_equal(pixels(dataset), BITS)


def test_npz_with_one_array_or_a_usual_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", whatever=BYTES)
    np.savez_compressed(tmp_path / "usual.npz", labels=np.arange(7), images=BYTES)
    for name in ("one.npz", "usual.npz"):
        assert np.array_equal(pixels(load_dataset(tmp_path / name)), BYTES)
    np.savez(tmp_path / "unclear.npz", left=BYTES, right=BYTES)
    with pytest.raises(DatasetError, match=r"left, right"):
        load_dataset(tmp_path / "unclear.npz")


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (BYTES.astype(np.int64), "int64"),
        (BYTES.astype(np.float32), r"0 to 255"),
        (np.full((2, 4, 4), -0.5), "-0.5"),
        (np.full((2, 4, 4), np.nan), "nan"),
        (np.zeros((2, 4, 4), complex), "complex128"),
        (np.array([["a"]]), r"\(1, 1\)"),
        (BYTES[0, 0], r"\(6, 5\)"),
        (np.zeros((2, 2, 4, 4), np.uint8), r"\(2, 2, 4, 4\)"),
        (np.zeros((2, 3, 4, 3), np.uint8), "unambiguous"),
        (np.zeros((0, 4, 4), np.uint8), "no images"),
        (np.zeros((2, 0, 4), np.uint8), "no images"),
        (np.array([1, "x", None], dtype=object), "allow_pickle"),
    ],
    ids=str,
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        load_dataset(save(tmp_path, array))


@pytest.mark.parametrize("save_as", [np.save, np.savez_compressed], ids=["on disk", "whole"])
def test_arrays_load_where_the_system_does_not_tell_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_as: Callable[..., None]
) -> None:
    def unknown() -> int:
        raise ValueError("this system does not tell how much memory it has")

    monkeypatch.setattr("betavae_fast.system_memory.available_memory", unknown)
    path = tmp_path / ("images.npy" if save_as is np.save else "images.npz")
    save_as(path, BYTES)
    assert np.array_equal(pixels(load_dataset(path)), BYTES)


def test_a_pickle_called_npy_is_never_opened(tmp_path: Path) -> None:
    import os
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "unpickled"),)

    (tmp_path / "a.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DatasetError, match="not a readable array file"):
        load_dataset(tmp_path / "a.npy")
    assert not (tmp_path / "unpickled").exists()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(data=st.data(), compressed=st.booleans())
def test_flipped_bits_are_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, compressed: bool
) -> None:
    buffer = io.BytesIO()
    if compressed:
        np.savez_compressed(buffer, images=BYTES)
    else:
        np.save(buffer, BYTES)
    content = bytearray(buffer.getvalue())
    # Both files start with their headers, where a flipped bit does the most harm.
    position = data.draw(st.integers(0, 200) | st.integers(0, len(content) - 1))
    content[min(position, len(content) - 1)] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / f"flipped.{'npz' if compressed else 'npy'}"
    path.write_bytes(content)
    try:
        assert load_dataset(path).store.dtype == torch.uint8
    except DatasetError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)

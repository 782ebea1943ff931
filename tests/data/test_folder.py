"""Folders of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from betavae_fast.data import DatasetError, load_dataset


def save(path: Path, array: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def pixels(folder: Path, **options: Any) -> np.ndarray:
    dataset = load_dataset(folder, progress=False, **options)
    return dataset.gather(torch.arange(len(dataset))).numpy()


def test_images_are_found_below_the_folder_and_ordered_by_path(tmp_path: Path) -> None:
    for value, name in enumerate(
        ("a/2.png", "a/10.png", "b.PNG", "a.png", ".hidden/x.png", "a/._x.png"), start=1
    ):
        save(tmp_path / name, np.full((64, 64), value, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    found = pixels(tmp_path)
    assert found.shape == (4, 1, 64, 64)
    assert found[:, 0, 0, 0].tolist() == [2, 1, 4, 3]  # a/10.png, a/2.png, a.png, b.PNG: folder by folder


def test_pixels_of_the_right_size_are_untouched(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    save(tmp_path / "a.png", rgb)
    assert np.array_equal(pixels(tmp_path)[0], rgb.transpose(2, 0, 1))
    assert pixels(tmp_path, channels=1).shape == (1, 1, 64, 64)


def test_wide_and_tall_images_lose_their_ends(tmp_path: Path) -> None:
    wide = np.zeros((32, 96), np.uint8)
    wide[:, 32:64] = 200
    save(tmp_path / "a.png", wide)
    save(tmp_path / "b.png", wide.T.copy())
    found = pixels(tmp_path, image_size=16)
    assert found.shape == (2, 1, 16, 16)
    # The outermost pixels mix in a little of what was cut off: the filter looks past the edge.
    assert (found[:, :, 1:-1, 1:-1] >= 198).all()
    assert (found > 150).all()


def test_other_modes_are_converted(tmp_path: Path) -> None:
    gray = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)
    save(tmp_path / "a.png", gray)
    save(tmp_path / "b.png", (gray.astype(np.uint16) << 8) + gray)
    Image.fromarray(gray).convert("RGBA").save(tmp_path / "c.png")
    Image.fromarray(gray).convert("P").save(tmp_path / "d.gif")
    found = pixels(tmp_path)
    assert all(np.array_equal(image[0], gray) for image in found)


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    image = np.zeros((64, 64), np.uint8)
    image[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    save(tmp_path / "a.png", image, exif=exif)
    assert np.array_equal(pixels(tmp_path)[0, 0], image[::-1])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf"{tmp_path.name}: no images"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_a_damaged_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for index in range(20):
        save(tmp_path / f"{index:02}.png", noise)
    damaged = tmp_path / "07.png"
    damaged.write_bytes(damaged.read_bytes()[:2000] if content is None else content)
    with pytest.raises(DatasetError, match=r"07\.png"):
        load_dataset(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("option", "value"), [("channels", 2), ("channels", 0), ("image_size", 0), ("image_size", -1)]
)
def test_senseless_options_are_refused(tmp_path: Path, option: str, value: int) -> None:
    save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=rf"{option} must be .*{value}"):
        load_dataset(tmp_path, progress=False, **{option: value})  # type: ignore[arg-type]

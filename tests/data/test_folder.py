"""Folders of image files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from betavae_fast import system_memory
from betavae_fast.data import DatasetError, FolderImages, load_dataset, open_dataset
from betavae_fast.evaluation.code_file import write_npz

pytestmark = pytest.mark.filterwarnings("ignore:.* (left out|colour in) ")  # `told` checks these warnings


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
    assert found[:, 0, 0, 0].tolist() == [2, 1, 4, 3]  # a/10.png, a/2.png, a.png, b.PNG, folder by folder


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
    # The outermost pixels mix in a little of the part that was cut off, because the filter looks past the edge.
    assert (found[:, :, 1:-1, 1:-1] >= 198).all()
    assert (found > 150).all()


def test_other_modes_are_converted(tmp_path: Path) -> None:
    gray = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)
    save(tmp_path / "a.png", gray)
    save(tmp_path / "b.png", (gray.astype(np.uint16) << 8) + gray)
    Image.fromarray(gray).convert("RGBA").save(tmp_path / "c.png")
    Image.fromarray(gray).convert("P").save(tmp_path / "d.gif")
    found = pixels(tmp_path, channels=1)
    assert all(np.array_equal(image[0], gray) for image in found)


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    image = np.zeros((64, 64), np.uint8)
    image[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    save(tmp_path / "a.png", image, exif=exif)
    assert np.array_equal(pixels(tmp_path)[0, 0], image[::-1])


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_broken_exif_data_turn_nothing(tmp_path: Path, format: str) -> None:
    save(tmp_path / f"a.{format}", coloured(64), exif=b"Exif\0\0nonsense")
    assert pixels(tmp_path).shape == (1, 3, 64, 64)


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


def grey(value: int = 0, side: int = 8) -> np.ndarray:
    return np.full((side, side), value, np.uint8)


def coloured(side: int = 8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)


def told(folder: Path, **options: Any) -> list[str]:
    """Load a folder, and return its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_dataset(folder, progress=False, **options)
    assert {warning.category for warning in caught} <= {UserWarning}
    return [str(warning.message) for warning in caught]


# Selection of the files.


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    for index in range(8):
        save(tmp_path / "elsewhere" / f"{index}.png", grey(index))
    for value, name in ((100, "a/own.png"), (101, "z/own.png")):
        save(tmp_path / "data" / name, grey(value))
    (tmp_path / "data" / "m").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert pixels(tmp_path / "data", image_size=8)[:, 0, 0, 0].tolist() == [100, *range(8), 101]


def test_each_folder_is_entered_once(tmp_path: Path) -> None:
    save(tmp_path / "data" / "cats" / "1.png", grey(1))
    save(tmp_path / "data" / "2.png", grey(2))
    for name, target in (
        ("again", "cats"),
        ("cats/up", ".."),
        ("dogs", "../data/cats"),
        ("self", "self"),
        ("there", "back"),
        ("back", "there"),
    ):
        (tmp_path / "data" / name).symlink_to(target, target_is_directory=True)
    found = pixels(tmp_path / "data", image_size=8)
    assert found[:, 0, 0, 0].tolist() == [2, 1]  # 2.png, again/1.png


def test_a_link_to_a_file_is_a_file_and_one_to_nothing_is_named(tmp_path: Path) -> None:
    save(tmp_path / "store" / "1.png", grey(1))
    (tmp_path / "data").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / "1.png")
    assert len(pixels(tmp_path / "data")) == 2
    (tmp_path / "data" / "c.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(DatasetError, match=r"c\.png: .*No such file"):
        load_dataset(tmp_path / "data", progress=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey())
    os.mkfifo(tmp_path / "b.png")
    assert told(tmp_path) == [f"{tmp_path}: left out 1 file in unsupported formats (.png 1)"]


@pytest.mark.parametrize("beside", ["metrics.jsonl", "checkpoint/weights"])
def test_the_pictures_of_a_run_are_no_data(tmp_path: Path, beside: str) -> None:
    save(tmp_path / "a.png", grey())
    run = tmp_path / "runs" / "first"
    save(run / "pictures" / "reconstructions.png", coloured())
    (run / "config.json").write_text("{}")
    assert len(pixels(tmp_path)) == 2  # a folder with only a config.json may be anything
    (run / beside).parent.mkdir(exist_ok=True)
    (run / beside).write_text("{}")
    assert told(tmp_path) == [f"{tmp_path}: left out 1 run folder (runs/first)"]
    assert pixels(tmp_path).shape == (1, 1, 64, 64)
    assert len(pixels(run / "pictures")) == 1, "unless the user names them"


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey())
    for name in ("b.txt", "c/d.TXT", "e.mp4", "f", ".hidden.txt", ".git/g.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert told(tmp_path) == [
        f"{tmp_path}: left out 4 files in unsupported formats (.txt 2, no suffix 1, .mp4 1)"
    ]


@pytest.mark.parametrize("name", ["labels.csv", "a/labels.npz"])
def test_the_file_of_factors_is_not_left_out(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "photos"
    files = ["a/1.png", "a/2.png"]
    for file in files:
        save(folder / file, grey())
    if name.endswith(".csv"):
        (folder / name).write_text("file,size\n" + "".join(f"{file},{file[2]}\n" for file in files))
    else:
        write_npz(folder / name, {"file": np.array(files), "size": np.array([1, 2])})
    (tmp_path / "linked").symlink_to(folder, target_is_directory=True)
    for factors in (folder / name, tmp_path / "linked" / name):
        assert told(folder, factors=factors) == []
    (folder / "other.csv").write_text("")
    assert told(folder, factors=folder / name) == [
        f"{folder}: left out 1 file in unsupported formats (.csv 1)"
    ]


def test_nothing_is_said_of_a_plain_folder(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        save(tmp_path / name, grey())
    assert told(tmp_path) == []


@pytest.mark.parametrize(
    "suffix", ["jfif", "JPE", "jp2", "j2k", "avif", "tga", "pcx", "sgi", "dds", "qoi", "ico", "apng"]
)
def test_every_format_that_pillow_reads_is_read(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"a.{suffix}", coloured(64), format={"JPE": "JPEG"}.get(suffix))
    assert pixels(tmp_path).shape == (1, 3, 64, 64)


def test_what_needs_another_program_or_is_no_picture_is_not_opened(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey())
    for name in ("b.eps", "c.ps", "d.mpg", "e.h5", "f.fits", "g.wmf", "h.grib"):
        (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert "left out 7 files" in told(tmp_path)[0]
    (tmp_path / "b.eps").rename(tmp_path / "b.png")  # also refused under another name
    with pytest.raises(DatasetError, match=r"b\.png: not an image"):
        load_dataset(tmp_path, progress=False)


def test_the_content_says_what_a_file_is(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)
    save(tmp_path / "a.png", smooth, format="JPEG", quality=95)
    assert np.abs(pixels(tmp_path)[0, 0].astype(int) - smooth).max() < 8


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", grey())
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DatasetError, match="locked: cannot be listed: Permission denied"):
        load_dataset(tmp_path, progress=False)


# Grey or coloured images.


def test_one_coloured_file_makes_all_rgb_and_it_is_said(tmp_path: Path) -> None:
    for index in range(9):
        save(tmp_path / f"a{index}.png", grey(index, 64))
    save(tmp_path / "b.png", coloured(64))
    (warning,) = told(tmp_path)
    assert warning.startswith(
        f"{tmp_path}: colour in 1 of 10 images (first in b.png), so all are read as RGB; "
    )
    found = pixels(tmp_path)
    assert np.array_equal(found[9], coloured(64).transpose(2, 0, 1))
    assert np.array_equal(found[3], np.full((3, 64, 64), 3))
    assert told(tmp_path, channels=1) == []
    luma = coloured(64) @ (0.299, 0.587, 0.114)
    assert np.abs(pixels(tmp_path, channels=1)[9, 0] - luma).max() <= 0.501


@pytest.mark.parametrize(
    ("entries", "hidden", "channels"),
    [
        ([(0, 0, 0), (9, 9, 9)], None, 1),
        ([(0, 0, 0), (9, 9, 8)], None, 3),
        ([(255, 0, 255), (9, 9, 9)], 0, 1),  # the colour that means transparent
    ],
)
@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_has_colour_if_a_visible_entry_has(
    tmp_path: Path, entries: list[tuple[int, ...]], hidden: int | None, channels: int, suffix: str
) -> None:
    image = Image.fromarray(np.tile(np.arange(2, dtype=np.uint8), (8, 4)), "L").convert("P")
    image.putpalette([part for entry in entries for part in entry])
    image.save(tmp_path / f"a.{suffix}", **({} if hidden is None else {"transparency": hidden}))
    assert pixels(tmp_path).shape[1] == channels


# Pixels.


def test_hidden_colours_stay_hidden(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    rgba[..., 3] = 0
    rgba[16:48, 16:48, 3] = 255
    save(tmp_path / "a.png", rgba)
    found = pixels(tmp_path)[0]
    assert np.array_equal(found[:, 16:48, 16:48], rgba[16:48, 16:48, :3].transpose(2, 0, 1))
    assert found[:, :16].max() == found[:, 48:].max() == 0
    # The image is composed before it is made smaller, so hidden colours do not leak over the edge.
    rgba[..., :3] = np.where(rgba[..., 3:] > 0, 100, 255)
    save(tmp_path / "a.png", rgba)
    assert pixels(tmp_path, image_size=9).max() <= 100 * 1.1


def test_floats_in_0_to_1_are_taken_as_the_array_loader_takes_them(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((1, 64, 64)).astype(np.float32)
    np.save(tmp_path / "a.npy", images)
    save(tmp_path / "folder" / "a.tif", images[0])
    array = load_dataset(tmp_path / "a.npy").gather(torch.tensor([0])).numpy()
    assert np.array_equal(pixels(tmp_path / "folder"), array)


@pytest.mark.parametrize(
    ("pixel", "expected"),
    [
        (np.float32(255), r"must lie in \[0, 1\], found 0 to 255"),
        (np.float32(-0.5), r"must lie in \[0, 1\], found -0.5 to 0"),
        (np.float32(np.nan), r"must lie in \[0, 1\], found NaN"),
        (np.int32(200_000), "32-bit integers, found 0 to 200000"),
        (np.int32(1), "32-bit integers, found 0 to 1"),
    ],
)
def test_pixels_without_a_known_white_are_refused_with_their_range(
    tmp_path: Path, pixel: np.generic, expected: str
) -> None:
    array = np.zeros((8, 8), pixel.dtype)
    array[3, 3] = pixel
    save(tmp_path / "a.tif", array)
    with pytest.raises(DatasetError, match=rf"a\.tif: .*{expected}") as caught:
        load_dataset(tmp_path, progress=False)
    assert "\n" not in str(caught.value)


def test_16_bits_are_rounded_to_8(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (64, 64), dtype=np.uint16)
    save(tmp_path / "a.png", values)
    assert np.array_equal(pixels(tmp_path)[0, 0], np.rint(values / 257))


# Files that cannot be read.


def test_all_damaged_files_are_named_at_once(tmp_path: Path) -> None:
    for index in range(40):
        save(
            tmp_path / f"{index:02}.png",
            np.random.default_rng(index).integers(0, 256, (32, 32), dtype=np.uint8),
        )
    damaged = [path for index, path in enumerate(sorted(tmp_path.iterdir())) if index % 3 == 0]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetError) as caught:
        load_dataset(tmp_path, progress=False)
    message = str(caught.value)
    remedy = "repair them, or move them out of the folder"
    assert message.startswith(f"{tmp_path}: 14 of 40 images cannot be read; {remedy}: 00.png (")
    assert [path.name in message for path in damaged] == [True] * 10 + [False] * 4
    assert message.endswith("and 4 more")
    assert "\n" not in message


def test_a_single_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    for name in ("broken.jpg", "whole.jpg"):
        save(tmp_path / "holiday" / name, coloured(64))
    path = tmp_path / "holiday" / "broken.jpg"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetError) as caught:
        load_dataset(tmp_path, progress=False)
    message = str(caught.value)
    assert message.startswith(f"{path}: damaged image: ")
    assert message.endswith(f"; repair it, or move it out of {tmp_path}")


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "jp2", "png", "ppm", "tga", "tif", "webp", "avif"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"a.{suffix}", coloured(64))
    path = tmp_path / f"a.{suffix}"
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(DatasetError, match=rf"a\.{suffix}"):
            load_dataset(tmp_path, progress=False)


def test_a_decompression_bomb_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", grey(side=40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert told(tmp_path) == [], "up to twice the limit is no error"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(DatasetError, match=r"a\.png: more than 1,400 pixels, .* make it smaller") as caught:
        load_dataset(tmp_path, progress=False)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_into_memory_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        save(tmp_path / f"{index}.png", grey())
    monkeypatch.setattr(system_memory, "available_memory", lambda: 3 * 100**2 - 1)
    load_dataset(tmp_path, image_size=99, progress=False)
    with pytest.raises(
        DatasetError,
        match=r"\(3 images of 1×100×100\): needs 30\.0 kB .* 30\.0 kB are free; .*--image-size.*\.npy",
    ):
        load_dataset(tmp_path, image_size=100, progress=False)


def test_images_decoded_when_read_are_those_decoded_at_once(tmp_path: Path) -> None:
    """Two of seven files have colour, in two subfolders."""
    random = np.random.default_rng(0)
    for number in range(7):
        shape = (20, 31, 3) if number < 2 else (20, 31)
        save(tmp_path / "ab"[number % 2] / f"{number}.png", random.integers(0, 256, shape, dtype=np.uint8))
    with pytest.warns(UserWarning, match="colour in 2 of 7 images"):
        whole = load_dataset(tmp_path, image_size=8, progress=False)
    with pytest.warns(UserWarning, match="colour in 2 of 7 images"):
        opened = open_dataset(tmp_path, image_size=8, progress=False)
    assert isinstance(opened, FolderImages) and opened.to("cpu") is opened
    assert opened.files == ["a/0.png", "a/2.png", "a/4.png", "a/6.png", "b/1.png", "b/3.png", "b/5.png"]
    some = torch.tensor([6, 0, 6])
    found, expected = opened.gather(some), whole.gather(some)
    assert torch.equal(found, expected) and found.stride() == expected.stride()
    assert torch.equal(opened.mean_image(), whole.mean_image())
    assert opened.identity == whole.identity
    grey = open_dataset(tmp_path, image_size=8, channels=1, progress=False)
    assert torch.equal(
        grey.gather(some), load_dataset(tmp_path, image_size=8, channels=1, progress=False).gather(some)
    )


def test_what_is_no_folder_of_images_is_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", np.zeros((2, 8, 8), np.uint8))
    assert len(open_dataset(tmp_path / "two.npy", progress=False)) == 2
    with pytest.raises(DatasetError, match="no images in this folder"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="image_size must be positive, got 0"):
        open_dataset(tmp_path, image_size=0)

"""idx files, whole and corrupt, and the places where the named sets are looked for."""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from betavae_fast import system_memory
from betavae_fast.data import DatasetError, idx, load_dataset
from betavae_fast.data.download import download
from betavae_fast.data.idx import SOURCES, read_idx_images

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


def idx_bytes(
    magic: int = 0x803, shape: tuple[int, int, int] = (5, 28, 28), pixels: bytes = PIXELS.tobytes()
) -> bytes:
    return struct.pack(">4I", magic, *shape) + pixels


def write_gz(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0))
    return path


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without installed data sets, whose only server is one of its folders."""
    monkeypatch.chdir(tmp_path)
    real = idx.find_images_file
    monkeypatch.setattr(
        idx, "find_images_file", lambda folder: None if folder.parts[:2] == ("/", "usr") else real(folder)
    )
    source = write_gz(tmp_path / "server" / "images.gz", idx_bytes()).read_bytes()
    served = replace(
        SOURCES["mnist"],
        url=(tmp_path / "server" / "images.gz").as_uri(),
        size=len(source),
        sha256=hashlib.sha256(source).hexdigest(),
    )
    monkeypatch.setitem(idx.SOURCES, "mnist", served)
    return tmp_path


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte"])
def test_images_get_a_border_up_to_32(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(idx_bytes()) if name.endswith(".gz") else idx_bytes())
    dataset = load_dataset(path)
    assert dataset.image_shape == (1, 32, 32)
    batch = dataset.gather(torch.arange(5))
    assert batch.dtype == torch.uint8
    assert np.array_equal(batch[:, 0, 2:30, 2:30].numpy(), PIXELS)
    assert int(batch.long().sum()) == PIXELS.astype(int).sum(), "the border is black"


def test_image_size_28_is_the_file_as_it_is(tmp_path: Path) -> None:
    write_gz(tmp_path / "train-images-idx3-ubyte.gz", idx_bytes())
    dataset = load_dataset(tmp_path, image_size=28)  # the folder of the file works, too
    assert np.array_equal(dataset.gather(torch.arange(5))[:, 0].numpy(), PIXELS)
    with pytest.raises(ValueError, match="28×28, got 16"):
        load_dataset(tmp_path, image_size=16)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("joint", ["-", "."])
def test_a_folder_may_spell_the_file_in_all_usual_ways(tmp_path: Path, joint: str, packed: str) -> None:
    def write(part: str, pixels: np.ndarray) -> None:
        content = idx_bytes(shape=pixels.shape, pixels=pixels.tobytes())
        path = tmp_path / f"{part}-images{joint}idx3-ubyte{packed}"
        path.write_bytes(gzip.compress(content) if packed else content)

    (tmp_path / f"train-labels{joint}idx1-ubyte{packed}").touch()
    write("t10k", PIXELS[:2])
    assert len(load_dataset(tmp_path)) == 2, "the test images are used if there are no others"
    write("train", PIXELS)
    assert np.array_equal(load_dataset(tmp_path, image_size=28).gather(torch.arange(5))[:, 0].numpy(), PIXELS)


def test_idx_files_of_other_names_are_told_of(tmp_path: Path) -> None:
    write_gz(tmp_path / "emnist-letters-train-images-idx3-ubyte.gz", idx_bytes())
    with pytest.raises(
        DatasetError, match=r"no images .*; give an idx file by its own path: emnist-letters-train-"
    ):
        load_dataset(tmp_path)


def test_test_images_are_not_taken_for_a_named_set(nowhere: Path) -> None:
    write_gz(
        nowhere / "data" / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz",
        idx_bytes(shape=(1, 28, 28), pixels=bytes(784)),
    )
    assert len(load_dataset("mnist", cache_dir=nowhere / "cache", progress=False)) == 5


@pytest.mark.parametrize("name", ["a-images-idx3-ubyte", "a-images-idx3-ubyte.gz"])
def test_what_does_not_fit_into_memory_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(idx_bytes()) if name.endswith(".gz") else idx_bytes())
    for available, told in (
        (3919, r"needs 3\.9 kB .* 3\.9 kB are free; .*\.npy"),
        (5119, "border: needs 5.1 kB"),
    ):
        monkeypatch.setattr(system_memory, "available_memory", lambda available=available: available)
        with pytest.raises(DatasetError, match=rf"{name}.*{told}"):
            load_dataset(path)
    monkeypatch.setattr(system_memory, "available_memory", lambda: 5120)
    assert len(load_dataset(path)) == 5


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "ends in its header"),
        (idx_bytes()[:15], "ends in its header"),
        (idx_bytes(magic=0x801), "0x00000801"),
        (idx_bytes(magic=0x03080000), "0x03080000"),
        (idx_bytes(shape=(6, 28, 28)), "found 3920"),
        (idx_bytes(shape=(4, 28, 28)), "found more"),
        (idx_bytes(shape=(5, 28, 0)), "empty"),
        (idx_bytes(shape=(2**32 - 1,) * 3), "found 3920"),
        (idx_bytes()[:-1], "found 3919"),
        (idx_bytes() + b"\0", "found more"),
    ],
)
def test_corrupt_files_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    for path in (tmp_path / "a-idx3-ubyte", write_gz(tmp_path / "a-idx3-ubyte.gz", content)):
        if path.suffix != ".gz":
            path.write_bytes(content)
        with pytest.raises(DatasetError, match=told):
            read_idx_images(path)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = write_gz(tmp_path / "images.gz", idx_bytes())
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        try:
            # A flip in gzip's time stamp changes nothing.
            assert np.array_equal(read_idx_images(path), PIXELS)
        except DatasetError as error:
            assert str(path) in str(error)
    for length in (0, 5, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError):
            read_idx_images(path)


def test_named_set_is_taken_from_where_it_lies(nowhere: Path) -> None:
    torchvision = nowhere / "data" / "FashionMNIST" / "raw"
    torchvision.mkdir(parents=True)
    (torchvision / "train-images-idx3-ubyte").write_bytes(idx_bytes())
    dataset = load_dataset("fashion-mnist", cache_dir=nowhere / "cache", progress=False)
    assert (dataset.name, len(dataset)) == ("fashion-mnist", 5)


def test_named_set_is_downloaded_once(nowhere: Path) -> None:
    for _ in range(2):
        assert len(load_dataset("mnist", cache_dir=nowhere / "cache", progress=False)) == 5
        (nowhere / "server" / "images.gz").unlink(missing_ok=True)  # there is no server the second time
    assert (nowhere / "cache" / "mnist" / "train-images-idx3-ubyte.gz").exists()


def test_offline_the_error_is_one_line_that_says_what_to_do(nowhere: Path) -> None:
    (nowhere / "server" / "images.gz").unlink()
    with pytest.raises(
        DatasetError, match=r"^mnist: no train-images-idx3-ubyte\.gz in .*give the path of"
    ) as caught:
        load_dataset("mnist", cache_dir=nowhere / "cache", progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"another file", b"much longer" * 100_000, idx_bytes()])
def test_a_download_of_other_content_is_refused_and_not_kept(nowhere: Path, content: bytes) -> None:
    (nowhere / "server" / "images.gz").write_bytes(content)
    with pytest.raises(DatasetError, match="not the expected file"):
        load_dataset("mnist", cache_dir=nowhere / "cache", progress=False)
    assert not any((nowhere / "cache" / "mnist").iterdir())


def test_a_download_stops_soon_after_the_expected_size(tmp_path: Path) -> None:
    (tmp_path / "endless").write_bytes(bytes(3 << 20))
    with pytest.raises(DatasetError, match=f"{1 << 18} bytes with SHA-256"):
        download((tmp_path / "endless").as_uri(), tmp_path / "out", size=10, sha256="", progress=False)


def test_installed_fashion_mnist_loads() -> None:
    if idx.find_images_file(Path("/usr/share/datasets/fashion-mnist")) is None:
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    dataset = load_dataset("fashion-mnist", progress=False)
    assert (len(dataset), dataset.image_shape) == (60000, (1, 32, 32))
    # The mean training pixel of Fashion-MNIST is 72.94 of 255 (0.2860), before the border is added.
    assert dataset.mean_image().double().sum().item() / 28**2 == pytest.approx(0.2860, abs=1e-4)

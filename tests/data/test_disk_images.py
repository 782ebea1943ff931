"""Arrays that stay on disk: the same images as in memory, and an error where the file fails."""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from betavae_fast.data import BinaryImages, ByteImages, DatasetError, DiskImages, load_dataset
from betavae_fast.data import arrays as module

GENERATOR = np.random.default_rng(0)
BYTES = GENERATOR.integers(0, 256, (40, 3, 6, 5), dtype=np.uint8)
BITS = GENERATOR.random((40, 1, 6, 5)) < 0.5
FORMS = {
    "bytes": BYTES,
    "bytes-nhwc": BYTES.transpose(0, 2, 3, 1),
    "bytes-nhw": BYTES[:, 0],
    "floats": (BYTES / 255).astype(np.float32),
    "big-endian": (BYTES / 255).astype(">f8"),
    "bools": BITS,
    "zeros and ones": BITS.astype(np.uint8),
    "binary floats": BITS.astype(np.float16),
}


@pytest.fixture
def nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 0)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("form", FORMS)
def test_a_set_on_disk_is_the_set_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, suffix: str
) -> None:
    path = tmp_path / f"images{suffix}"
    np.save(path, FORMS[form]) if suffix == ".npy" else np.savez(
        path, images=FORMS[form], labels=np.arange(40)
    )
    held = load_dataset(path, progress=False)
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 0)
    on_disk = load_dataset(path, progress=False)
    assert isinstance(on_disk, DiskImages) and isinstance(held, BinaryImages | ByteImages)
    assert (len(on_disk), on_disk.image_shape) == (len(held), held.image_shape)
    for indices in (torch.randint(0, 40, (64,)), torch.arange(40), torch.tensor([39]), torch.arange(0)):
        found = on_disk.gather(indices)
        expected = held.gather(indices)
        assert torch.equal(found, expected) and found.dtype == expected.dtype
        assert len(indices) == 0 or found.stride() == expected.stride()
    assert torch.equal(on_disk.mean_image(), held.mean_image())
    assert on_disk.to("cpu") is on_disk
    moved = on_disk.to("meta")
    assert type(moved) is type(held) and moved.device.type == "meta"
    copied = pickle.loads(pickle.dumps(on_disk))
    assert torch.equal(copied.gather(torch.arange(40)), held.gather(torch.arange(40)))


@pytest.mark.usefixtures("nothing_in_memory")
def test_a_file_cut_short_while_in_use_is_an_error(tmp_path: Path) -> None:
    """A memory map would end the process with a bus error."""
    path = tmp_path / "images.npy"
    np.save(path, BYTES)
    dataset = load_dataset(path)
    with open(path, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(
        DatasetError,
        match=r"images\.npy: it ends before byte 3638, within its array of shape \(40, 3, 6, 5\)",
    ):
        dataset.gather(torch.tensor([39]))


@pytest.mark.usefixtures("nothing_in_memory")
def test_a_damaged_archive_is_named_when_it_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, BYTES)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"images\.npz: damaged: its CRC-32 is"):
        load_dataset(path).mean_image()


@pytest.mark.parametrize(
    "save", [np.savez_compressed, lambda path, array: np.save(path, np.asfortranarray(array))]
)
def test_what_cannot_stay_on_disk_and_does_not_fit_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: object
) -> None:
    save(tmp_path / "images", BYTES)  # type: ignore[operator]
    (path,) = tmp_path.iterdir()
    monkeypatch.setattr("betavae_fast.system_memory.available_memory", lambda: 1000)
    with pytest.raises(
        DatasetError, match=r"images\.np.: needs .* kB of memory, 1.0 kB are free; save it uncompressed"
    ):
        load_dataset(path)


LARGE = 30 << 30
TRAIN = """
import sys, torch
from betavae_fast.data import DiskImages, load_dataset
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.loop import train
from betavae_fast.training.state import prepare
dataset = load_dataset(sys.argv[1], progress=False)
assert isinstance(dataset, DiskImages)
config = TrainConfig(latent_dim=3, batch_size=64, steps=3, architecture="mlp", device="cpu", precision="fp32")
state = prepare(config, dataset)
train(state, None)
print(len(dataset), dataset.identity.checksum, state.step)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs sparse files and RLIMIT_AS of Linux")
def test_a_set_larger_than_memory_trains_from_disk(tmp_path: Path) -> None:
    """The set has 30 GB, and the process may have 8 GB of address space."""
    path, shape = tmp_path / "large.npy", (LARGE // (3 * 64 * 64), 64, 64, 3)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        start = file.tell()
        file.write(bytes(range(200, 256)) * 100)  # grey, so the first image shows that the set is not binary
        file.truncate(start + shape[0] * 3 * 64 * 64)  # the rest is a hole
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == str(shape[0]) and done.stdout.split()[-1] == "3"

"""The identity of a data set: the same for equal images, however they are stored, and different for other images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from betavae_fast.data import ByteImages, load_dataset
from betavae_fast.data import arrays as arrays_module
from betavae_fast.data import identity as identity_module
from betavae_fast.data.identity import describe_difference

GENERATOR = np.random.default_rng(0)
BYTES = GENERATOR.integers(0, 256, (7, 3, 6, 5), dtype=np.uint8)
BITS = GENERATOR.random((9, 1, 6, 5)) < 0.5


def identities(folder: Path, forms: dict[str, np.ndarray]) -> set[object]:
    found = set()
    for name, array in forms.items():
        np.save(folder / f"{name}.npy", array)
        np.savez(folder / f"{name}.npz", array)
        found |= {load_dataset(folder / f"{name}{suffix}").identity for suffix in (".npy", ".npz")}
    return found


@pytest.mark.parametrize("in_memory", [1 << 30, 0])
def test_every_form_of_the_same_images_has_one_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(arrays_module, "IN_MEMORY_BYTES", in_memory)
    forms = {
        "nchw": BYTES,
        "nhwc": BYTES.transpose(0, 2, 3, 1),
        "f4": (BYTES / 255).astype("f4"),
        "f8": BYTES / 255,
    }
    assert len(identities(tmp_path, forms)) == 1
    assert len(identities(tmp_path, {"bool": BITS, "u1": BITS.astype("u1"), "f2": BITS.astype("f2")})) == 1


def test_any_other_images_have_another_identity() -> None:
    def identity(pixels: np.ndarray) -> object:
        channels, height, width = pixels.shape[1:]
        return ByteImages("x", torch.from_numpy(pixels.copy()), (channels, height, width)).identity

    one_pixel = BYTES.copy()
    one_pixel[6, 2, 5, 4] ^= 1
    others = [
        BYTES,
        one_pixel,
        BYTES[:-1],
        BYTES[::-1],
        255 - BYTES,
        BYTES.reshape(7, 3, 5, 6),
        BYTES.reshape(21, 1, 6, 5),
    ]
    assert len({identity(np.ascontiguousarray(pixels)) for pixels in others}) == len(others)


def test_a_large_set_is_sampled_from_its_first_image_to_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_module, "_READ_WHOLE", 1000)
    monkeypatch.setattr(identity_module, "_SAMPLE_BYTES", 80)
    pixels = torch.zeros(5000, 1, 2, 10, dtype=torch.uint8)
    before = ByteImages("x", pixels, (1, 2, 10)).identity
    seen = []
    for row in (0, 3, 4996, 4999, 10):
        changed = pixels.clone()
        changed[row, 0, 1, 9] = 1
        seen.append(ByteImages("x", changed, (1, 2, 10)).identity != before)
    assert seen == [True, True, True, True, False]
    assert ByteImages("x", pixels[1:], (1, 2, 10)).identity != before


def test_a_difference_names_both_sides() -> None:
    dataset = ByteImages("mine", torch.zeros(3, 1, 4, 4, dtype=torch.uint8), (1, 4, 4))
    other = ByteImages("other", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), (1, 4, 4))
    assert describe_difference(dataset, dataset.identity) is None
    assert describe_difference(dataset, None) is None, "nothing was recorded"
    assert describe_difference(dataset, other.identity) == (
        f"mine has 3 images of 1×4×4 with SHA-256 {dataset.identity.checksum[:12]}, "
        f"but the run was trained on 2 images of 1×4×4 with SHA-256 {other.identity.checksum[:12]}"
    )

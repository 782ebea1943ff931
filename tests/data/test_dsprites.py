"""The rendered set through its cache, and the published layout through a small copy of it."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from betavae_fast.data import DatasetError, DSprites, KnownFactors, load_dataset
from betavae_fast.data import dsprites as module
from betavae_fast.data.dsprites import PUBLISHED_NAME, git_blob_id, pack_published
from tests.data.conftest import Rendered, digest

VALUES = tuple(
    torch.from_numpy(v)
    for v in (
        np.ones(1),
        np.arange(1.0, 4),
        np.linspace(0.5, 1, 2),
        np.linspace(0, 6, 3),
        np.linspace(0, 1, 2),
        np.linspace(0, 1, 2),
    )
)
COUNT = 72
CLASSES = np.stack(np.unravel_index(np.arange(COUNT), [len(v) for v in VALUES]), axis=1)
IMAGES = np.random.default_rng(0).integers(0, 2, (COUNT, 64, 64), dtype=np.uint8)


class Bomb:
    """An object that does harm when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


def write_archive(path: Path, **changes: np.ndarray) -> Path:
    members = {
        "metadata": np.array(Bomb(), dtype=object),
        "imgs": IMAGES,
        "latents_classes": CLASSES,
        "latents_values": np.stack([v.numpy()[c] for v, c in zip(VALUES, CLASSES.T, strict=True)], axis=1),
    }
    np.savez_compressed(path, **(members | changes))  # type: ignore[arg-type]
    return path


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a small archive in the published layout, and make the package take it for the published one."""
    monkeypatch.chdir(tmp_path)
    path = write_archive(tmp_path / PUBLISHED_NAME)
    monkeypatch.setattr(module, "PUBLISHED_BLOB_ID", git_blob_id(path))
    monkeypatch.setattr(module, "FACTOR_VALUES", VALUES)
    return path


def test_rendered_set_is_complete_and_typed(dsprites: DSprites) -> None:
    assert isinstance(dsprites, KnownFactors)
    assert (len(dsprites), dsprites.image_shape, dsprites.name) == (737280, (1, 64, 64), "dsprites")
    batch = dsprites.gather(torch.tensor([0, 737279]))
    assert (batch.shape, batch.dtype) == ((2, 1, 64, 64), torch.bool)


def test_rendered_set_is_loaded_from_its_cache(dsprites: DSprites, rendered: Rendered) -> None:
    assert digest(dsprites) == rendered.digest


def test_reading_the_published_layout_never_unpickles(archive: Path, tmp_path: Path) -> None:
    dataset = load_dataset(archive, cache_dir=tmp_path / "cache", progress=False)
    assert isinstance(dataset, DSprites)
    assert dataset.name == "dsprites-published"
    assert np.array_equal(dataset.gather(torch.arange(COUNT))[:, 0].numpy(), IMAGES)
    assert not Path("unpickled").exists()
    with np.load(archive, allow_pickle=True) as content, pytest.raises(FileExistsError):
        Path("unpickled").mkdir()
        content["metadata"]  # the bomb works, so the check above means something


def test_published_images_are_unpacked_once(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_dataset(archive, cache_dir=tmp_path / "cache", progress=False)
    monkeypatch.setattr(module, "pack_published", None)
    again = load_dataset(archive, cache_dir=tmp_path / "cache", progress=False)
    assert torch.equal(first.store, again.store)


def test_any_other_file_in_the_published_layout_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "mine.npz")
    with pytest.raises(
        DatasetError, match=rf"mine\.npz.*{git_blob_id(path)}.*d98996d3f8ee1550e06b9d4ed78d0beb478910d5"
    ):
        load_dataset(path, cache_dir=tmp_path, progress=False)


def test_a_damaged_copy_of_the_published_file_is_refused(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-5] + b"?" + content[-4:], b""):
        archive.write_bytes(damaged)
        with pytest.raises(DatasetError, match="git blob id"):
            load_dataset(archive, cache_dir=tmp_path / "cache", progress=False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"imgs": IMAGES * 255}, "only 0 and 1, got 255"),
        ({"imgs": IMAGES.astype(np.int64)}, "int64"),
        ({"imgs": IMAGES[:-1]}, "71"),
        ({"latents_classes": CLASSES[::-1]}, "published order"),
        ({"latents_values": CLASSES.astype(float)}, "factor values"),
    ],
    ids=["pixels", "dtype", "count", "order", "values"],
)
def test_an_archive_with_other_content_is_refused(
    tmp_path: Path, changes: dict[str, np.ndarray], told: str
) -> None:
    with pytest.raises(DatasetError, match=told):
        pack_published(write_archive(tmp_path / "a.npz", **changes), VALUES, progress=False)


def test_pickled_latents_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_archive(tmp_path / "a.npz", latents_classes=np.array(Bomb(), dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        pack_published(path, VALUES, progress=False)
    assert not Path("unpickled").exists()


def test_blob_id_is_what_git_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(list(range(1000))))
    assert git_blob_id(path) != git_blob_id(Path(__file__))
    empty = tmp_path / "empty"
    empty.touch()
    assert git_blob_id(empty) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    if git := shutil.which("git"):
        said = subprocess.run([git, "hash-object", path], capture_output=True, text=True, check=True)
        assert git_blob_id(path) == said.stdout.strip()

"""The full rendered set, made once for these tests within seconds, in a cache of its own; small published forms."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from betavae_fast.data import DSprites, cars3d, load_dataset, mpi3d, shapes3d, small_norb, sprites
from tests.data import published


class Rendered(NamedTuple):
    cache: Path
    digest: str  # digest of the images just after they were rendered


def digest(dataset: DSprites) -> str:
    return hashlib.sha256(dataset.store.numpy()).hexdigest()


@pytest.fixture(scope="package")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rendered]:
    folder = tmp_path_factory.mktemp("dsprites-cache")
    dataset = load_dataset("dsprites", cache_dir=folder, progress=False)
    assert isinstance(dataset, DSprites)
    result = Rendered(folder, digest(dataset))
    del dataset  # Two at a time would be 754 MB.
    yield result
    shutil.rmtree(folder)  # pytest would keep the 377 MB of its last three runs


@pytest.fixture(scope="package")  # Package scope frees its 377 MB for the tests that follow.
def dsprites(rendered: Rendered) -> DSprites:
    """The set as read from its cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sprites, "render", None)
        dataset = load_dataset("dsprites", cache_dir=rendered.cache, progress=False)
    assert isinstance(dataset, DSprites)
    return dataset


@pytest.fixture
def small_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package expect the small files of `published` instead of the whole sets."""
    monkeypatch.setattr(shapes3d, "SHAPES3D", published.SHAPES)
    monkeypatch.setattr(mpi3d, "FORMS", dict.fromkeys(mpi3d.FORMS, published.MPI))
    monkeypatch.setattr(small_norb, "SMALL_NORB", published.NORB)
    monkeypatch.setattr(cars3d, "CARS3D", published.CARS)

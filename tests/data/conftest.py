"""The full rendered set, made once for all tests (seconds), in a cache of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from betavae_fast.data import DSprites, load_dataset


@pytest.fixture(scope="session")
def dsprites_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("dsprites-cache")
    yield folder
    shutil.rmtree(folder)  # pytest would keep the 377 MB of its last three runs


@pytest.fixture(scope="session")
def dsprites(dsprites_cache: Path) -> DSprites:
    dataset = load_dataset("dsprites", cache_dir=dsprites_cache, progress=False)
    assert isinstance(dataset, DSprites)
    return dataset

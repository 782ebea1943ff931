"""``load_dataset`` with names and paths that it does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from betavae_fast.data import DatasetError, load_dataset


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match="'dsprite': give dsprites, mnist, fashion-mnist, or the path"):
        load_dataset("dsprite")


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.tfrecord").write_bytes(b"\x89HDF")
    with pytest.raises(DatasetError, match=r"images\.tfrecord: not a supported form"):
        load_dataset(tmp_path / "images.tfrecord")


@pytest.mark.parametrize(("option", "value"), [("image_size", 32), ("channels", 3)])
def test_an_option_that_cannot_be_met_is_refused(tmp_path: Path, option: str, value: int) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 64, 64), np.uint8))
    with pytest.raises(ValueError, match=rf"{option} cannot be {value}"):
        load_dataset(tmp_path / "a.npy", **{option: value})  # type: ignore[arg-type]
    assert load_dataset(tmp_path / "a.npy", image_size=64, channels=1).image_shape == (1, 64, 64)

"""The cache survives damage, kills, races and full disks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from betavae_fast.data import DatasetError
from betavae_fast.data.cache import cache_directory, load_or_build, read_rows, write_rows
from betavae_fast.files import atomic_writer

ROWS = np.random.default_rng(0).integers(0, 256, (50, 16), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "rows.bits"


def build() -> np.ndarray:
    return ROWS.copy()


def must_not_build() -> np.ndarray:
    raise AssertionError("the cache should have been used")


def test_what_was_built_is_loaded_the_next_time(path: Path) -> None:
    for make in (build, must_not_build):
        assert np.array_equal(load_or_build(path, ROWS.shape, make).numpy(), ROWS)


def test_every_single_byte_is_checked(path: Path) -> None:
    write_rows(path, ROWS)
    whole = path.read_bytes()
    for position in [*range(0, 200), *range(200, len(whole), 97), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match="damaged"):
            read_rows(path, ROWS.shape)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:4096], lambda b: b"", lambda b: b + b"\0"])
def test_a_truncated_or_longer_file_is_refused(path: Path, change) -> None:
    write_rows(path, ROWS)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"rows\.bits: damaged, it has \d+ bytes instead of 4896"):
        read_rows(path, ROWS.shape)


def test_rows_of_another_shape_are_refused(path: Path) -> None:
    write_rows(path, ROWS.reshape(100, 8))
    with pytest.raises(DatasetError):
        read_rows(path, ROWS.shape)


def test_a_damaged_cache_is_named_in_a_warning_and_made_again(path: Path) -> None:
    write_rows(path, ROWS)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match=r"rows\.bits: damaged.*making it again"):
        assert np.array_equal(load_or_build(path, ROWS.shape, build).numpy(), ROWS)
    assert np.array_equal(read_rows(path, ROWS.shape), ROWS)


def test_a_loaded_tensor_may_be_written_to_without_touching_the_file(path: Path) -> None:
    write_rows(path, ROWS)
    load_or_build(path, ROWS.shape, must_not_build).zero_()
    assert np.array_equal(read_rows(path, ROWS.shape), ROWS)


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = load_or_build(tmp_path / "file" / "rows.bits", ROWS.shape, build)
    assert np.array_equal(rows.numpy(), ROWS)
    assert any("cannot be cached" in str(warning.message) for warning in caught)


def test_a_writer_that_fails_leaves_the_old_file_and_no_rubbish(path: Path) -> None:
    write_rows(path, ROWS)
    with pytest.raises(RuntimeError, match="midway"), atomic_writer(path) as file:
        file.write(b"half of it")
        raise RuntimeError("midway")
    assert np.array_equal(read_rows(path, ROWS.shape), ROWS)
    assert os.listdir(path.parent) == ["rows.bits"]


def test_a_killed_writer_leaves_the_old_file_and_its_rubbish_is_removed_in_time(path: Path) -> None:
    write_rows(path, ROWS)
    program = (
        "import os, pathlib, sys; from betavae_fast.data.cache import atomic_writer\n"
        "with atomic_writer(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == 9
    assert np.array_equal(read_rows(path, ROWS.shape), ROWS)
    (leftover,) = path.parent.glob(".rows.bits.*.tmp")
    write_rows(path, ROWS)
    assert leftover.exists(), "it may belong to a writer that is still at work"
    os.utime(leftover, (time.time() - 7200,) * 2)
    write_rows(path, ROWS)
    assert not leftover.exists()


def test_writers_that_race_leave_one_whole_file(path: Path) -> None:
    results: list[np.ndarray] = []

    def load() -> None:
        results.append(load_or_build(path, ROWS.shape, build).numpy())

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(rows, ROWS) for rows in results)
    assert os.listdir(path.parent) == ["rows.bits"]
    assert np.array_equal(read_rows(path, ROWS.shape), ROWS)


def test_the_cache_folder_is_found_in_the_documented_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("BETAVAE_FAST_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_directory() == tmp_path / ".cache" / "betavae_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "betavae_fast"
    monkeypatch.setenv("BETAVAE_FAST_CACHE", "~/own")
    assert cache_directory() == tmp_path / "own"
    assert cache_directory(tmp_path / "given") == tmp_path / "given"
    assert not (tmp_path / "given").exists()

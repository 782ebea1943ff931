"""The command line in unusual environments: other encodings, variables, folders and disks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import betavae_fast
from betavae_fast import cli
from betavae_fast.data import cache, load_dataset
from betavae_fast.training import launch
from betavae_fast.training.run_folder import RunFolder
from tests.backends import fresh_process

ROOT = Path(betavae_fast.__file__).parents[1]
TINY = ["--batch-size=16", "--latent-dim=2", "--steps=2", "--architecture=mlp", "--precision=fp32"]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.random.default_rng(0).random((32, 8, 8)) < 0.3)
    return "--data=images.npy"


def command(*arguments: str, **variables: str | None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", "betavae_fast", *arguments],
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
    )


def exit_code(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    return exit_.value.code


@pytest.mark.parametrize(
    "arguments, encoding",
    [
        (["--help"], "cp1252"),
        (["--help"], "ascii"),
        (["train", "--help"], "latin-1:strict"),
        (["info"], "cp1252"),
        (["evaluate", "Ωμέγα"], "ascii"),
    ],
)
def test_a_terminal_that_lacks_a_character_gets_a_question_mark(arguments: list[str], encoding: str) -> None:
    done = command(*arguments, PYTHONIOENCODING=encoding)
    assert done.returncode == (2 if arguments[0] == "evaluate" else 0)
    assert b"Traceback" not in done.stderr
    if arguments == ["--help"]:
        assert b"Train ?-VAEs" in done.stdout


def test_a_whole_run_in_a_notebooks_environment_and_another_encoding(images: str) -> None:
    done = command(
        "train", images, *TINY, "--out=run",
        PYTHONIOENCODING="ascii", MPLBACKEND="module://matplotlib_inline.backend_inline",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"z = ?" in done.stdout and RunFolder(Path("run")).summary.exists()


def test_threads_wait_passively_and_torch_is_told_in_time() -> None:
    code = (
        "import os, sys; from betavae_fast import cli; cli._prepare(); "
        "print('torch' in sys.modules, *(os.environ.get(v) for v in "
        "('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'MPLBACKEND')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "nonsense"}
    for policy, expected in ((None, ["PASSIVE", "3000"]), ("ACTIVE", ["ACTIVE", "None"])):
        environment.pop("OMP_WAIT_POLICY", None)
        environment.pop("GOMP_SPINCOUNT", None)
        if policy:
            environment["OMP_WAIT_POLICY"] = policy
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.split() == ["False", *expected, "agg"], done.stderr


def test_a_command_does_not_wait_for_what_only_scores_need() -> None:
    """scikit-learn and scipy.stats take a second to import."""
    code = (
        "import sys; import betavae_fast.evaluation.report, betavae_fast.training.run, betavae_fast.sweep.report; "
        "print([name for name in ('sklearn', 'scipy.stats') if name in sys.modules])"
    )
    done = fresh_process("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


def test_pictures_that_cannot_be_drawn_end_the_run_before_it_trains(
    images: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the font is broken")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    assert exit_code("train", images, *TINY, "--out=run") == 2
    captured = capfd.readouterr()
    assert captured.err == "betavae-fast: the font is broken\n" and "step 2" not in captured.out


def fails_on(name: str) -> Callable[..., Any]:
    """Return an ``os.replace`` for a disk that is full when a file of this name is written."""

    def replace(source: str, target: str) -> None:
        if name in Path(target).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(source, target)

    return replace


@pytest.mark.parametrize(
    "name, left",
    [
        ("latest.json", "no checkpoint was written yet"),
        ("summary.json", "the checkpoint of step 2 remains; go on with: betavae-fast train --resume run"),
        ("capacity.png", "the checkpoint of step 2 remains; go on with: betavae-fast train --resume run"),
    ],
)
def test_a_full_disk_is_named_with_what_remains(
    images: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, left: str
) -> None:
    monkeypatch.setattr(os, "replace", fails_on(name))
    assert exit_code("train", images, *TINY, "--out=run") == 1
    error = capfd.readouterr().err
    assert "No space left on device" in error and name in error and left in error and error.count("\n") == 1
    monkeypatch.undo()


def test_a_full_disk_under_the_log_is_named(
    images: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("betavae_fast.training.log.LogWriter._write_tensorboard", full)
    assert exit_code("train", images, *TINY, "--out=run") == 1
    assert "No space left on device: 'run/tensorboard'" in capfd.readouterr().err


@pytest.mark.parametrize(
    "variables, told",
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number, got 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be at least 1, got 0"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK must lie in [0, WORLD_SIZE = 2), got 2",
        ),
        ({"LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE must be a whole number, got 'x'"),
    ],
)
def test_a_launchers_variables_that_make_no_sense_are_one_line(
    images: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    variables: dict[str, str],
    told: str,
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert exit_code("train", images, *TINY) == 2
    error = capfd.readouterr().err
    assert told in error and error.count("\n") == 1
    assert launch.launched_rank() is None


def test_a_user_without_a_home_folder_trains_and_caches(
    images: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("BETAVAE_FAST_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_directory().name == f"betavae_fast-{os.getuid()}"
    assert exit_code("train", images, *TINY, "--out=run") == 0
    with pytest.raises(ValueError, match="no data set or file named '~nobody-of-that-name/x'"):
        load_dataset("~nobody-of-that-name/x")


def test_a_device_that_is_not_there_is_one_short_line(images: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", images, *TINY, "--device=mps") == 2
    error = capfd.readouterr().err
    assert error.startswith("betavae-fast: device 'mps' cannot be used: ") and len(error) < 300


def test_info_tells_what_decides_a_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code("info") == 0
    output = capfd.readouterr().out
    for fact in (
        "betavae_fast: ",
        "precision that auto takes there: ",
        "threads wait: ",
        "cache folder: ",
        "driver",
    ):
        assert fact in output

"""Runs of a sweep that share a process: each ends as it would alone. On a CPU here, where the command line refuses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from betavae_fast.files import read_json
from betavae_fast.sweep.grid import SweptRun, grid
from betavae_fast.sweep.local import SharedImages, check_side_by_side, groups, train_locally
from betavae_fast.sweep.tasks import Ended, Progress, Task
from betavae_fast.training.log import read_log
from betavae_fast.training.run_folder import RunFolder
from tests.sweep import run

ENTRIES = {
    "seed": [0, 1, 2],
    "steps": 30,
    "batch_size": 8,
    "latent_dim": 3,
    "log_every": 5,
    "checkpoint_every": 5,
    "precision": "fp32",
    "threads": 1,
    "architecture": "mlp",
}


def tasks(data: Path, out: Path, **changes) -> list[Task]:
    runs = grid({"data": str(data), **ENTRIES, **changes})
    return [Task(run, out / run.name, ("unsupervised",)) for run in runs]


class Seen:
    """A watcher that keeps how each run has ended, and may act on progress."""

    def __init__(self, act: Callable[[Progress], None] = lambda progress: None) -> None:
        self.ended: dict[str, Ended] = {}
        self.first: dict[str, int] = {}
        self._act = act

    def on_progress(self, run: SweptRun, progress: Progress) -> None:
        self.first[run.name] = progress.step if progress.entry is None else self.first[run.name]
        self._act(progress)

    def on_end(self, run: SweptRun, ended: Ended) -> None:
        self.ended[run.name] = ended

    @property
    def how(self) -> set[str]:
        return {ended.how for ended in self.ended.values()}


def train(found: list[Task], side_by_side: int, watcher: Seen, **options) -> Seen:
    images = SharedImages(task.run.config for task in found)
    train_locally(found, images, watcher, devices=["cpu"], side_by_side=side_by_side, **options)
    return watcher


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    out = tmp_path_factory.mktemp("alone")
    assert train(tasks(data, out, seed=[0, 1]), 1, Seen()).how == {"finished"}
    return out


def scores(folder: RunFolder) -> list[dict]:
    return [{**score, "seconds": 0} for score in read_json(folder.evaluation)["scores"]]


def assert_same(one: Path, two: Path, names: set[str]) -> None:
    for name in names:
        first, second = RunFolder(one / name), RunFolder(two / name)
        (weights,), (others,) = (
            [load_file(path) for path in folder.checkpoint.glob("model-*")] for folder in (first, second)
        )
        assert all(np.array_equal(tensor, others[key]) for key, tensor in weights.items())
        losses = [[(entry.step, entry.loss) for entry in read_log(f.metrics)] for f in (first, second)]
        assert losses[0] == losses[1] and losses[0][-1][0] == 30
        assert scores(first) == scores(second) and second.report.exists()


def test_a_run_that_fails_leaves_the_others(alone: Path, data: Path, tmp_path: Path) -> None:
    found = tasks(data, tmp_path)
    well, damaged, diverges = found
    damaged.folder.mkdir()
    (damaged.folder / "notes.txt").write_text("not a run")
    found[2] = replace(
        diverges, run=replace(diverges.run, config=replace(diverges.run.config, lr=1e30, steps=25))
    )
    watcher = train(found, 3, Seen())
    assert watcher.ended[damaged.run.name].error.endswith("choose another folder")
    assert "is not finite after step" in watcher.ended[diverges.run.name].error
    assert watcher.ended[well.run.name].how == "finished" and len(watcher.ended) == 3
    assert_same(alone, tmp_path, {well.run.name})


def test_each_run_ends_as_it_would_alone_even_if_their_process_is_killed(
    alone: Path, data: Path, tmp_path: Path
) -> None:
    kills = iter([True])

    def kill(progress: Progress) -> None:
        if progress.step >= 10 and next(kills, False):
            for process in active_children():
                process.kill()

    watcher = train(tasks(data, tmp_path, seed=[0, 1]), 2, Seen(kill))
    assert watcher.how == {"finished"} and len(watcher.ended) == 2 and min(watcher.first.values()) >= 5
    assert_same(alone, tmp_path, {*watcher.ended})


def test_a_stop_saves_all_runs(data: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    found = tasks(data, tmp_path, steps=100_000)
    watcher = train(found, 3, Seen(seen.append), should_stop=lambda: len(seen) > 6)
    assert watcher.how == {"stopped"} and len(watcher.ended) == 3
    assert all((task.folder / "checkpoint" / "latest.json").exists() for task in found)


def test_runs_are_grouped_by_what_decides_the_pace_of_a_step(data: Path, tmp_path: Path) -> None:
    found = tasks(data, tmp_path, architecture=["mlp", "burgess"])

    assert groups(found, 1) == [[task] for task in found]
    pairs = groups(found, 2)
    assert sorted(map(len, pairs)) == [1, 1, 2, 2]
    assert all(len({task.run.config.architecture for task in group}) == 1 for group in pairs)
    assert sorted(task.run.name for group in pairs for task in group) == sorted(t.run.name for t in found)


@pytest.mark.parametrize(
    ("count", "devices", "message"),
    [
        (0, ["cuda:0"], "side_by_side must lie in 1 to 32, got 0"),
        (33, ["cuda:0"], "side_by_side must lie in 1 to 32, got 33"),
        (2, ["cpu"], "side_by_side 2 needs a GPU; on a CPU each run has a process of its own"),
    ],
)
def test_what_cannot_be_trained_side_by_side_is_named(count, devices, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_side_by_side(count, devices)
    check_side_by_side(1, devices)
    check_side_by_side(2, ["cuda:0"])


def test_the_command_line_refuses_it_on_a_cpu(data: Path, tmp_path: Path) -> None:
    done = run([f"--data={data}", "--device=cpu", "--side-by-side=2"], tmp_path / "sweep")
    assert done.returncode == 2 and not (tmp_path / "sweep").exists()
    assert "--side-by-side 2 needs a GPU" in done.stderr

"""A sweep on a Ray cluster of one or two nodes, all on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from betavae_fast.data import BinaryImages, ByteImages, ImageDataset
from betavae_fast.files import read_json
from betavae_fast.sweep import ray_cluster
from betavae_fast.sweep.grid import SweptRun, grid
from betavae_fast.sweep.local import SharedImages
from betavae_fast.sweep.tasks import Ended, Progress, Task
from tests import PATIENCE
from tests.sweep import assert_the_same, children, command, options, run

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path: it holds sockets
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", folder)  # where "auto" finds the cluster
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = cluster_utils.Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **NODE})
        yield made
        made.shutdown()
    shutil.rmtree(folder)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    return found


def start(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(arguments, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def step_of(folder: Path) -> int:
    index = folder / "checkpoint" / "latest.json"
    return read_json(index)["step"] if index.exists() else 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_runs_of_a_lost_node_go_on_to_the_same_end(cluster: Any, data: Path, tmp_path: Path) -> None:
    arguments = [*options(data), "--steps=100"]
    local, out = tmp_path / "local" / "sweep", tmp_path / "sweep"
    assert run(arguments, local).returncode == 0
    node = cluster.add_node(**NODE)
    (raylet,) = node.all_processes["raylet"]
    sweep = start([*arguments, f"--ray={cluster.address}"], out)

    def going() -> tuple[int, Path] | None:
        """A process of the node, and the folder of the run that it trains, which has a checkpoint."""
        for process in children(raylet.process.pid):
            for file in Path(f"/proc/{process}/fd").glob("*"):
                folder = Path(os.path.realpath(file))
                if folder.parent == out and step_of(folder):
                    return process, folder
        return None

    process, folder = wait_for(going, sweep)
    os.kill(process, signal.SIGSTOP)  # a process that outlives its node, and keeps the run's folder locked
    assert 0 < step_of(folder) < 100
    cluster.remove_node(node, allow_graceful=False)
    assert sweep.poll() is None
    os.kill(process, signal.SIGKILL)
    said, errors = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 0 and said.count("finished  loss") == 4 and not errors, said + errors
    assert_the_same(local, out)


def test_ctrl_c_saves_the_runs_that_go_on(cluster: Any, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep = start([*options(data), "--steps=100000", "--checkpoint-every=100000", "--ray=auto"], out)
    (log,) = wait_for(lambda: [log for log in out.glob("*/metrics.jsonl") if log.stat().st_size], sweep)
    assert not step_of(log.parent)
    sweep.send_signal(signal.SIGINT)
    _, errors = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 130
    assert errors == "betavae-fast: interrupted, 4 runs are not finished; the same command goes on\n"
    assert 0 < step_of(log.parent) < 100000
    assert not list(out.glob(".ray-*"))


class Recorder:
    def on_progress(self, run: SweptRun, progress: Progress) -> None:
        raise AssertionError("no run begins")

    on_end: Callable[[Any, SweptRun, Ended], None] = on_progress


def test_a_node_that_does_not_share_the_folder_is_refused(
    cluster: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (swept,) = grid({"data": str(data), "threads": 1, "latent_dim": 3})
    task = Task(swept, tmp_path / "sweep" / swept.name, ())
    images = SharedImages([swept.config])

    def unseen(folder: Path) -> Any:
        marker = made(folder)
        monkeypatch.setattr(marker, "__enter__", lambda: None)
        return marker

    made = ray_cluster._marker
    with ray_cluster.connected(cluster.address):
        assert ray_cluster.choose_device("auto") == "cpu"
        with pytest.raises(ValueError, match="must be auto, cpu or cuda, got 'cuda:1'"):
            ray_cluster.choose_device("cuda:1")
        with pytest.raises(ValueError, match="needs 1 CPUs and a GPU"):
            ray_cluster.train_with_ray([task], "cuda", images, Recorder())
        unlink = Path.exists
        with pytest.raises(RuntimeError, match=r"^node [0-9.]+ of the Ray cluster: /.*sweep is not the sweep's"):
            ray_cluster.train_with_ray([task], "cpu", images, Recorder())
    assert not task.folder.exists()


def test_without_ray_or_a_cluster_one_line_says_so(monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    start = time.monotonic()
    done = run([*options(data), "--ray=127.0.0.1:9"], tmp_path / "sweep")
    assert done.returncode == 2 and time.monotonic() - start < PATIENCE / 10
    assert done.stderr.startswith("betavae-fast: no Ray cluster at 127.0.0.1:9: ")
    assert done.stderr.count("\n") == 1 and not done.stdout
    with (
        pytest.raises(ValueError, match="takes auto, or HOST:PORT .* got 'ray://127.0.0.1:9'"),
        ray_cluster.connected("ray://127.0.0.1:9"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ValueError, match=r'^--ray needs ray: pip install "betavae_fast\[ray\]"$'),
        ray_cluster.connected("auto"),
    ):
        pass

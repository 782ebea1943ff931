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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from betavae_fast.data import BinaryImages, ByteImages, ImageDataset
from betavae_fast.data.identity import identify
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
        made = start_head(cluster_utils.Cluster)
        yield made
        made.shutdown()
    shutil.rmtree(folder)


def start_head(cluster: Callable[..., Any], attempts: int = 3) -> Any:
    """A cluster of one node. Where a busy machine takes 15 s to start a process of Ray's, Ray gives up; try again."""
    try:
        return cluster(initialize_head=True, head_node_args={"include_dashboard": False, **NODE})
    except Exception:
        if attempts == 1:
            raise
        return start_head(cluster, attempts - 1)


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


def said_on_stderr(text: str) -> list[str]:
    """The lines of ``text`` without those of progress bars."""
    return [line for line in text.splitlines() if not line.startswith("Checking ")]


def step_of(folder: Path) -> int:
    index = folder / "checkpoint" / "latest.json"
    return read_json(index)["step"] if index.exists() else 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_runs_of_a_lost_node_go_on_to_the_same_end(cluster: Any, data: Path, tmp_path: Path) -> None:
    arguments = [*options(data), "--lr=0.001", "--steps=100"]  # two runs
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
    assert sweep.returncode == 0 and said.count("finished  loss") == 2, said + errors
    assert len(said.splitlines()) == 7 and not said_on_stderr(errors), said + errors  # and nothing of Ray's
    assert_the_same(local, out)


def test_ctrl_c_saves_the_runs_that_go_on(cluster: Any, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep = start([*options(data), "--steps=100000", "--checkpoint-every=100000", "--ray=auto"], out)
    (log,) = wait_for(lambda: [log for log in out.glob("*/metrics.jsonl") if log.stat().st_size], sweep)
    assert not step_of(log.parent)
    sweep.send_signal(signal.SIGINT)
    _, errors = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 130
    assert said_on_stderr(errors) == [
        "betavae-fast: interrupted, 4 runs are not finished; the same command goes on"
    ]
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

    @contextmanager
    def on_another_file_system(folder: Path) -> Iterator[Path]:
        yield folder / "marker"

    monkeypatch.setattr(ray_cluster, "_marker", on_another_file_system)
    with ray_cluster.connected(cluster.address) as store:
        assert ray_cluster.choose_device("auto") == "cpu"
        with pytest.raises(ValueError, match="must be auto, cpu or cuda, got 'cuda:1'"):
            ray_cluster.choose_device("cuda:1")
        with pytest.raises(ValueError, match="needs 1 CPUs and a GPU"):
            ray_cluster.train_with_ray([task], images, Recorder(), store=store, device="cuda")
        with pytest.raises(
            RuntimeError, match=r"^a node of the Ray cluster cannot train: .* does not see the sweep's folder"
        ):
            ray_cluster.train_with_ray([task], images, Recorder(), store=store, device="cpu")
    assert not task.folder.exists()


@pytest.mark.parametrize(
    "dataset",
    [
        ByteImages("colours", torch.randint(256, (9, 3, 4, 5), dtype=torch.uint8), (3, 4, 5)),
        ByteImages("grey", torch.randint(256, (9, 1, 4, 5), dtype=torch.uint8), (1, 4, 5)),
        BinaryImages("binary", torch.randint(256, (9, 3), dtype=torch.uint8), (1, 4, 6)),
    ],
    ids=lambda dataset: dataset.name,
)
def test_images_are_read_in_place_and_never_written(dataset: ImageDataset, tmp_path: Path) -> None:
    _ = dataset.identity
    packed = ray_cluster._packed(dataset)
    packed.store.elements.tofile(
        tmp_path / "store"
    )  # a write into memory mapped for reading would end the process
    stored = np.memmap(tmp_path / "store", np.uint8, "r")
    packed.store = packed.store._replace(elements=stored)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = ray_cluster._unpacked(packed)
    assert images.store.data_ptr() == stored.ctypes.data and images.store.stride() == dataset.store.stride()
    assert vars(images)["identity"] == dataset.identity == identify(images)
    indices = torch.tensor([8, 0, 3, 3])
    assert torch.equal(images.gather(indices), dataset.gather(indices))
    assert torch.equal(images.mean_image(), dataset.mean_image())


def test_without_ray_or_a_cluster_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    start = time.monotonic()
    done = run([*options(data), "--ray=127.0.0.1:9"], tmp_path / "sweep")
    assert done.returncode == 2 and time.monotonic() - start < PATIENCE / 10
    assert done.stderr.startswith("betavae-fast: no Ray cluster at 127.0.0.1:9: ")
    assert done.stderr.count("\n") == 1 and not done.stdout
    with (
        pytest.raises(ValueError, match=r"takes auto, or HOST:PORT .* got 'ray://127.0.0.1:9'"),
        ray_cluster.connected("ray://127.0.0.1:9"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ValueError, match=r'^--ray needs ray: pip install "betavae_fast\[ray\]"$'),
        ray_cluster.connected("auto"),
    ):
        pass

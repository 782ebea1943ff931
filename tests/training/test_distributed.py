"""Several processes: the same run as one process, or a clear error."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import betavae_fast
from betavae_fast.data import load_dataset
from betavae_fast.processes import ProcessLostError, peers
from betavae_fast.training import distributed, loop
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.device import resolve_device
from betavae_fast.training.log import read_log
from betavae_fast.training.run_folder import RunFolder, create_run_folder
from tests import PATIENCE

TRAIN = ["-m", "betavae_fast", "train", "--data", "tiny.npy", "--latent-dim", "3", "--batch-size", "16"]


@pytest.fixture
def environment(tmp_path, monkeypatch) -> dict[str, str]:
    """Enter a folder with a data set, and return an environment in which processes find the package from there."""
    monkeypatch.chdir(tmp_path)
    np.save("tiny.npy", np.random.default_rng(0).random((64, 8, 8)) < 0.2)
    package = str(Path(betavae_fast.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": package, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture
def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def endless_pair(environment: dict[str, str], port: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Start two processes that train together, and wait for their first logged step. No agent ends one when the other
    ends.
    """
    environment = environment | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, *TRAIN, "--steps", "1000000", "--log-every", "5", "--out", "run"],
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        metrics, deadline = RunFolder(Path("run")).metrics, time.monotonic() + PATIENCE
        while not (metrics.exists() and metrics.stat().st_size):
            assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
            time.sleep(0.05)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_what_an_error_still_holds_is_gone_before_the_group(monkeypatch):
    """An error may still hold the CUDA graph of a step, which contains NCCL's exchange."""

    class Graph:
        pass

    graphs, alive = [], []

    def exchange(graph):
        graphs.append(weakref.ref(graph))
        raise RuntimeError("gloo: Connection reset by peer")

    def train():
        with peers():
            exchange(Graph())

    monkeypatch.setattr(distributed, "launched_processes", lambda: 2)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend: None)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: alive.append(graphs[0]()))
    with pytest.raises(ProcessLostError), distributed.process_group():
        train()
    assert alive == [None]


def test_two_processes_take_the_steps_of_one(environment, free_port):
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port]
    options = ["--steps", "100", "--log-every", "1", "--accumulate", "2", "--clip-grad-norm", "30"]
    together, alone = RunFolder(Path("together")), RunFolder(Path("alone"))
    done = subprocess.run(
        [sys.executable, *torchrun, *TRAIN, *options, "--precision", "fp32", "--out", "together"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Pictures: ") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.npy", "together"]

    config = TrainConfig(
        data="tiny.npy",
        latent_dim=3,
        batch_size=16,
        steps=100,
        log_every=1,
        clip_grad_norm=30,
        precision="fp32",
    )
    loop.train(loop.prepare(config, load_dataset(config.data)), create_run_folder(config, alone.path))
    entries = read_log(together.metrics), read_log(alone.metrics)
    assert [entry.step for entry in entries[0]] == list(range(1, 101))
    for found, expected in zip(*entries, strict=True):
        assert found.images == expected.images
        assert found.loss == pytest.approx(expected.loss, rel=1e-5), found.step
        assert found.kl_per_dim == pytest.approx(expected.kl_per_dim, rel=1e-4, abs=1e-7)
    found, expected = load_checkpoint(together.checkpoint), load_checkpoint(alone.checkpoint)
    assert found.model.keys() == expected.model.keys()
    assert found.optimizer.keys() == expected.optimizer.keys()


def test_two_processes_validate_as_one_and_stop_together(environment, free_port):
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port]
    options = ["--validation", "0.25", "--validation-every", "2", "--patience", "2", "--lr", "0.05"]
    command = [*TRAIN, *options, "--steps", "200", "--precision", "fp32", "--out"]
    for launcher, out in ((torchrun, "together"), ([], "alone")):
        done = subprocess.run(
            [sys.executable, *launcher, *command, out],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, done.stderr) == (0, "")
    together, alone = (
        {entry.step: entry.validation for entry in read_log(RunFolder(Path(out)).metrics) if entry.validation}
        for out in ("together", "alone")
    )
    assert max(together) < 200
    for step in (2, 4, 6):
        assert together[step] == pytest.approx(alone[step], rel=1e-4)


def test_a_process_that_dies_ends_the_run(environment, free_port):
    with endless_pair(environment, free_port) as (survivor, other):
        other.kill()
        _, error = survivor.communicate(timeout=PATIENCE)
    assert error.startswith("betavae-fast: process 0: another process of this run has ended")
    assert error.count("\n") == 1
    assert survivor.returncode == 1


def test_a_request_to_stop_one_process_stops_all_at_the_same_step(environment, free_port):
    with endless_pair(environment, free_port) as processes:
        processes[1].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [130, 130]
    step = load_checkpoint(RunFolder(Path("run")).checkpoint).step
    for rank, error in enumerate(errors):
        assert error.startswith(f"betavae-fast: process {rank}: interrupted after step {step} of 1000000")
        assert error.count("\n") == 1


@pytest.mark.parametrize("rank, order", [("0", ["load", "wait"]), ("1", ["wait", "load"])])
def test_one_process_of_a_machine_loads_before_the_others(monkeypatch, rank, order):
    monkeypatch.setenv("LOCAL_RANK", rank)
    done = []
    monkeypatch.setattr(distributed, "any_process", lambda flag: done.append("wait"))
    with distributed.one_per_machine_first():
        done.append("load")
    assert done == order


def test_errors_of_our_own_are_not_blamed_on_others():
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"), peers():
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_processes_of_a_machine_share_no_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="device 'cuda:0' is one GPU for 2 processes"):
        resolve_device("cuda:0")
    assert resolve_device("cpu") == torch.device("cpu")

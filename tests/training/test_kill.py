"""SIGKILL at any moment costs only the steps since the last checkpoint.

The processes are forked from a server that has everything imported, so that a run spends its life in training and not in
imports. BETAVAE_FAST_KILLS sets the number of runs that are killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from betavae_fast import cli
from betavae_fast.nn import BetaVAE
from betavae_fast.objectives import Beta
from betavae_fast.training.checked_json import read_checked
from betavae_fast.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.run_folder import RunFolder
from tests import PATIENCE

KILLS = int(os.environ.get("BETAVAE_FAST_KILLS", "4"))
STEPS = 40
PROCESSES = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def import_once():
    PROCESSES.set_forkserver_preload(
        [
            "betavae_fast.cli",
            "betavae_fast.data",
            "betavae_fast.evaluation.report",
            "betavae_fast.training.resume",
            "betavae_fast.training.loop",
            "rich.progress",
            "torch._dynamo",  # Adam imports it when it is first used
            __name__,
        ]
    )


def command(*arguments: str) -> None:
    """Run the command line in this process, on one thread and without output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    cli.main(list(arguments))


def start(target: Callable[..., None], *arguments: Any) -> Any:
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def run_to_the_end(*arguments: str) -> None:
    process = start(command, *arguments)
    process.join(timeout=PATIENCE)
    assert process.exitcode == 0


@dataclass(frozen=True)
class Reference:
    """The run that is not killed."""

    options: list[str]
    folder: RunFolder
    seconds: float  # time from its start to its last checkpoint


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
    path = tmp_path_factory.mktemp("reference")
    np.save(path / "images.npy", np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8))
    options = [
        "train",
        f"--data={path / 'images.npy'}",
        f"--steps={STEPS}",
        "--batch-size=8",
        "--latent-dim=3",
        "--log-every=2",
        "--checkpoint-every=3",
        "--precision=fp32",
    ]
    folder = RunFolder(path / "run")
    start(os.getpid).join()  # wait until the server runs
    started = time.time()
    run_to_the_end(*options, f"--out={folder.path}")
    return Reference(options, folder, (folder.checkpoint / "latest.json").stat().st_mtime - started)


def without_times(folder: RunFolder) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{**entry, "seconds": 0, "images_per_second": 0} for entry in entries]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_run_killed_and_resumed_is_the_run_that_was_not(reference, tmp_path, seed):
    generator = random.Random(seed)
    folder = RunFolder(tmp_path / "run")
    new, resume = [*reference.options, f"--out={folder.path}"], ["train", f"--resume={folder.path}"]
    for _ in range(2):  # the run and its continuation
        process = start(command, *(resume if folder.config.exists() else new))
        time.sleep(generator.uniform(0, reference.seconds))
        process.kill()
        process.join()
    run_to_the_end(*(resume if folder.config.exists() else new))

    assert contents(folder.checkpoint) == contents(reference.folder.checkpoint)
    assert without_times(folder) == without_times(reference.folder)
    assert folder.summary.read_bytes() == reference.folder.summary.read_bytes()
    assert sorted(contents(folder.pictures)) == sorted(contents(reference.folder.pictures))
    assert not list(folder.path.rglob(".*"))


def save_on_and_on(folder: Path) -> None:
    """Save checkpoints in which every number is the step, without end."""
    torch.set_num_threads(1)
    model = BetaVAE((1, 8, 8), latent_dim=2)
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    first = load_checkpoint(folder).step + 1 if has_checkpoint(folder) else 0
    for step in count(first):
        for parameter in model.parameters():
            parameter.data.fill_(step)
            for tensor in optimizer.state[parameter].values():
                tensor.fill_(step)
        save_checkpoint(folder, step, TrainConfig(steps=step + 1), model, optimizer, Beta())


def test_a_checkpoint_is_whole_whenever_its_writer_is_killed(tmp_path):
    generator, reached, leftovers = random.Random(0), -1, 0
    for _ in range(4 * KILLS):
        process = start(save_on_and_on, tmp_path)
        deadline = time.monotonic() + PATIENCE
        while not (has_checkpoint(tmp_path) and read_checked(tmp_path / "latest.json")["step"] > reached):
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.05))
        process.kill()
        process.join()
        leftovers += len(list(tmp_path.iterdir())) != 3
        saved = load_checkpoint(tmp_path)
        assert saved.step > reached
        assert saved.config.steps == saved.step + 1
        for tensor in (*saved.model.values(), *saved.optimizer.values()):
            assert (tensor == saved.step).all()
        reached = saved.step
    assert leftovers, "no kill hit a writer while it was writing"
    model = saved.build_model()
    optimizer = torch.optim.Adam(model.parameters())
    saved.restore(model, optimizer, Beta())
    save_checkpoint(tmp_path, reached + 1, saved.config, model, optimizer, Beta())
    assert len(list(tmp_path.iterdir())) == 3

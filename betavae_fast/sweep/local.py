"""Trains the runs of a sweep on this machine, each in a process of its own, or on a GPU several in one process.

On a CPU such a process has one thread, so that none waits for another. A process that is killed is started again, and
goes on after the last checkpoint of each of its runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import multiprocessing

from betavae_fast.data.images import ImageDataset
from betavae_fast.sweep.forecast import Timing, time_run
from betavae_fast.sweep.tasks import Ended, Task, Watcher
from betavae_fast.sweep.worker import work
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.device import resolve_device
from betavae_fast.training.trained_run import load_images
from betavae_fast.training.validation import absolute_paths

ATTEMPTS = 3
"""A run whose process is killed this many times is given up."""
MOST_SIDE_BY_SIDE = 32
"""Runs that a process can train side by side; torch has so many streams for a GPU."""
# Runs side by side are alike in these settings: they share the images, the choice of convolutions, and a pace.
_ALIKE = (
    "data",
    "image_size",
    "channels",
    "architecture",
    "latent_dim",
    "batch_size",
    "accumulate",
    "precision",
    "deterministic",
)
_POLL_SECONDS = 0.2
_SAFE_PATH = "PYTHONSAFEPATH"
_PRELOADED = [
    "betavae_fast.sweep.worker",
    "betavae_fast.training.run",
    "betavae_fast.training.loop",
    "betavae_fast.evaluation.evaluate",
    "betavae_fast.evaluation.report",
    # What is imported when it is first used: the first by the optimizer, the others by the scores.
    "torch._dynamo",
    "scipy.stats",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.multiclass",
    "sklearn.svm",
]


def places(device: str, jobs: int | None) -> list[str]:
    """The device of each of the runs that are trained at the same time.

    Args:
        device: "auto", "cpu", "cuda" (all GPUs), "cuda:1", ...
        jobs: the number of these runs; None: one for each GPU, or for each CPU core.
    Raises: ValueError for a device that cannot be used.
    """
    if device in ("auto", "cuda") and torch.cuda.is_available():
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    else:
        devices = [str(resolve_device(device))]
    if jobs is None:
        jobs = _cores() if devices == ["cpu"] else len(devices)
    return [devices[i % len(devices)] for i in range(jobs)]


def _cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_side_by_side(count: int, devices: Sequence[str]) -> None:
    """Raise ValueError if ``count`` runs cannot be trained in a process on each of ``devices``."""
    if not 1 <= count <= MOST_SIDE_BY_SIDE:
        raise ValueError(f"side_by_side must lie in 1 to {MOST_SIDE_BY_SIDE}, got {count}")
    if count > 1 and "cpu" in devices:
        raise ValueError(f"side_by_side {count} needs a GPU; on a CPU each run has a process of its own")


def groups(tasks: Iterable[Task], size: int) -> list[list[Task]]:
    """Split ``tasks`` into groups of at most ``size`` whose runs can be trained side by side."""
    found: list[list[Task]] = []
    open_groups: dict[object, list[Task]] = {}
    for task in tasks:
        kind = tuple(getattr(task.run.config, name) for name in _ALIKE)
        if len(open_groups.get(kind, ())) in (0, size):
            open_groups[kind] = []
            found.append(open_groups[kind])
        open_groups[kind].append(task)
    return found


@dataclass
class _Worker:
    """A process that trains runs, and the connection of each run."""

    tasks: list[Task]
    attempt: int
    device: str
    process: BaseProcess
    connections: list[Connection]
    going: dict[Connection, Task] = field(init=False)
    killed: list[Task] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.going = dict(zip(self.connections, self.tasks, strict=True))

    def listen(self, connection: Connection, watcher: Watcher) -> Ended | None:
        """Pass on what the process says of a run. Returns the run's end, None if it goes on."""
        while connection.poll():
            try:
                message = connection.recv()
            except (EOFError, OSError):
                self.process.join()
                return Ended("killed", f"its process ended with status {self.process.exitcode}")
            if isinstance(message, Ended):
                return message
            watcher.on_progress(self.going[connection].run, message)
        return None

    def ask_to_stop(self) -> None:
        for connection in self.connections:
            with suppress(OSError):  # it has ended
                connection.send("stop")


class SharedImages:
    """The data sets of some runs, loaded once for all processes of this machine. Raises: DatasetError."""

    def __init__(self, configs: Iterable[TrainConfig]) -> None:
        self._loaded: dict[object, ImageDataset | None] = {}
        for config in configs:
            if self._key(config) not in self._loaded:
                # A process on another node has another working directory.
                dataset = load_images(absolute_paths(config))
                _ = dataset.identity  # computed once, and sent along
                self._loaded[self._key(config)] = dataset if dataset.share() else None

    def of(self, config: TrainConfig) -> ImageDataset | None:
        """The images of ``config``; None if a process has to load them by itself, for lack of shared memory."""
        return self._loaded[self._key(config)]

    def _key(self, config: TrainConfig) -> object:
        config = absolute_paths(config)
        return config.data, config.factors, config.image_size, config.channels


def train_locally(
    tasks: Sequence[Task],
    images: SharedImages,
    watcher: Watcher,
    *,
    devices: Sequence[str],
    side_by_side: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train and evaluate the runs of ``tasks``, one process on each of ``devices`` at a time, until all have ended.

    After ``should_stop`` has returned True, the runs that are going on finish their steps and are saved, and no other
    begins.

    Args:
        side_by_side: the runs that a process trains at most (see ``check_side_by_side``). It trains fewer if otherwise a
            device would have none.
    """
    processes = _processes()
    size = min(side_by_side, max(1, -(-len(tasks) // len(devices))))
    waiting = [(group, 1) for group in groups(tasks, size)]
    free, workers = list(reversed(devices)), list[_Worker]()
    stopping = False
    try:
        while workers or (waiting and not stopping):
            while waiting and free and not stopping:
                group, attempt = waiting.pop(0)
                workers.append(_start(processes, group, attempt, free.pop(), images))
            if not stopping and should_stop():
                stopping = True
                for worker in workers:
                    worker.ask_to_stop()
            ready = wait([connection for worker in workers for connection in worker.going], _POLL_SECONDS)
            for worker in list(workers):
                for connection in [one for one in worker.going if one in ready]:
                    ended = worker.listen(connection, watcher)
                    if ended is None:
                        continue
                    task = worker.going.pop(connection)
                    if ended.how == "killed" and worker.attempt < ATTEMPTS and not stopping:
                        worker.killed.append(task)
                    else:
                        watcher.on_end(task.run, ended)
                if not worker.going:
                    worker.process.join()
                    workers.remove(worker)
                    free.append(worker.device)
                    if worker.killed:
                        waiting.insert(0, (worker.killed, worker.attempt + 1))
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


def time_locally(config: TrainConfig, images: SharedImages, *, devices: Sequence[str]) -> Timing | None:
    """Time a run with ``config`` in one process for each of ``devices``, all at once, as runs will be trained.

    Returns: the medians; None if its training fails.
    """
    processes = _processes()
    workers = []
    for device in devices:
        ours, theirs = processes.Pipe()
        arguments = (theirs, replace(config, device=device), images.of(config))
        worker = processes.Process(target=_send_timing, args=arguments, daemon=True)
        worker.start()
        theirs.close()
        workers.append((worker, ours))
    timings = list[Timing]()
    try:
        for _, connection in workers:
            with suppress(EOFError, OSError):
                timings.append(connection.recv())
    finally:
        for worker, _ in workers:
            worker.kill()
            worker.join()
    if len(timings) < len(devices):
        return None
    # bf16 only if it is worth it in all of them.
    decisive = min(timings, key=lambda timing: timing.precision == "bf16")
    return decisive._replace(
        step=median(timing.step for timing in timings), encoding=median(timing.encoding for timing in timings)
    )


def _send_timing(connection: Connection, config: TrainConfig, dataset: ImageDataset | None) -> None:
    """Send the timing of ``config``; if its training fails, nothing, since the run itself will say why."""
    with suppress(Exception):
        connection.send(time_run(config, dataset))


def _processes() -> Any:
    """A maker of processes. They are forked from one that has imported everything and runs nothing, where the system has
    ``fork``: they then begin at once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(_PRELOADED)
    # Python puts the current folder first in the path of the process that is forked. It would import a checkout that lies
    # there instead of this package. Python 3.10 does not know the variable.
    before = os.environ.get(_SAFE_PATH)
    if Path(__file__).resolve().parents[2] != Path.cwd():
        os.environ[_SAFE_PATH] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            os.environ.pop(_SAFE_PATH, None)
    return processes


def _start(processes: Any, tasks: list[Task], attempt: int, device: str, images: SharedImages) -> _Worker:
    ours, theirs = zip(*(processes.Pipe() for _ in tasks), strict=True)
    process = processes.Process(
        target=work, args=(theirs, tasks, device, images.of(tasks[0].run.config)), name=tasks[0].run.name
    )
    process.start()
    for connection in theirs:
        connection.close()  # closes this process's copy, so that the connection ends with the other process
    return _Worker(tasks, attempt, device, process, list(ours))

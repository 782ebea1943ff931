"""Trains the runs of a sweep on this machine, each in a process of its own.

On a CPU such a process has one thread, so that none waits for another. A process that is killed is started again, and
goes on after its run's last checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from statistics import median
from typing import Any

import torch
from torch import multiprocessing

from betavae_fast.data import absolute
from betavae_fast.data.images import ImageDataset
from betavae_fast.sweep.forecast import Timing, time_run
from betavae_fast.sweep.tasks import Ended, Task, Watcher
from betavae_fast.sweep.worker import work
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.device import resolve_device
from betavae_fast.training.trained_run import load_images

ATTEMPTS = 3
"""A run whose process is killed this many times is given up."""
_POLL_SECONDS = 0.2
_PRELOADED = [
    "betavae_fast.sweep.worker",
    "betavae_fast.training.run",
    "betavae_fast.training.loop",
    "betavae_fast.evaluation.evaluate",
    "betavae_fast.evaluation.report",
    "torch._dynamo",  # the optimizer imports it when it is first used
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


@dataclass
class _Worker:
    """A process that trains a run."""

    task: Task
    attempt: int
    device: str
    process: BaseProcess
    connection: Connection

    def listen(self, watcher: Watcher) -> Ended | None:
        """Pass on what the process says. Returns its end, None if it goes on."""
        while self.connection.poll():
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                self.process.join()
                return Ended("killed", f"its process ended with status {self.process.exitcode}")
            if isinstance(message, Ended):
                self.process.join()
                return message
            watcher.on_progress(self.task.run, message)
        return None

    def ask_to_stop(self) -> None:
        with suppress(OSError):  # it has ended
            self.connection.send("stop")


class SharedImages:
    """The data sets of some runs, loaded once for all processes of this machine. Raises: DatasetError."""

    def __init__(self, configs: Iterable[TrainConfig]) -> None:
        self._loaded: dict[object, ImageDataset | None] = {}
        for config in configs:
            if self._key(config) not in self._loaded:
                # A process on another node has another working directory.
                dataset = load_images(replace(config, data=absolute(config.data)))
                _ = dataset.identity  # computed once, and sent along
                self._loaded[self._key(config)] = dataset if dataset.share() else None

    def of(self, config: TrainConfig) -> ImageDataset | None:
        """The images of ``config``; None if a process has to load them by itself, for lack of shared memory."""
        return self._loaded[self._key(config)]

    def _key(self, config: TrainConfig) -> object:
        return absolute(config.data), config.image_size, config.channels


def train_locally(
    tasks: Sequence[Task],
    images: SharedImages,
    watcher: Watcher,
    *,
    devices: Sequence[str],
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train and evaluate the runs of ``tasks``, one on each of ``devices`` at a time, until all have ended.

    After ``should_stop`` has returned True, the runs that are going on finish their steps and are saved, and no other
    begins.
    """
    processes = _processes()
    waiting = [(task, 1) for task in tasks]
    free, workers = list(reversed(devices)), list[_Worker]()
    stopping = False
    try:
        while workers or (waiting and not stopping):
            while waiting and free and not stopping:
                task, attempt = waiting.pop(0)
                workers.append(_start(processes, task, attempt, free.pop(), images))
            if not stopping and should_stop():
                stopping = True
                for worker in workers:
                    worker.ask_to_stop()
            ready = wait([worker.connection for worker in workers], timeout=_POLL_SECONDS)
            for worker in [worker for worker in workers if worker.connection in ready]:
                ended = worker.listen(watcher)
                if ended is None:
                    continue
                workers.remove(worker)
                free.append(worker.device)
                if ended.how == "killed" and worker.attempt < ATTEMPTS and not stopping:
                    waiting.insert(0, (worker.task, worker.attempt + 1))
                else:
                    watcher.on_end(worker.task.run, ended)
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
    return processes


def _start(processes: Any, task: Task, attempt: int, device: str, images: SharedImages) -> _Worker:
    ours, theirs = processes.Pipe()
    process = processes.Process(
        target=work, args=(theirs, task, device, images.of(task.run.config)), name=task.run.name
    )
    process.start()
    theirs.close()  # closes this process's copy, so that the connection ends with the other process
    return _Worker(task, attempt, device, process, ours)

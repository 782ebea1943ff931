"""Trains and evaluates one run of a sweep, in a process of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Protocol

from betavae_fast.data.images import ImageDataset
from betavae_fast.files import write_json
from betavae_fast.sweep.folder import ADOPTED
from betavae_fast.sweep.tasks import Ended, Progress, Task
from betavae_fast.training.run_folder import RunFolder

if TYPE_CHECKING:
    from betavae_fast.training.run import OpenRun

# A worker whose sweep was killed keeps its run's folder until it has finished the step and saved.
_LOCK_SECONDS = 60.0


class StoppedError(Exception):
    """The sweep asks to stop, or has ended."""


class Channel(Protocol):
    """The part of a connection between processes by which a worker speaks with its sweep."""

    def send(self, message: Progress | Ended, /) -> None: ...

    def poll(self) -> bool: ...


class Line:
    """The connection of a worker to its sweep, which asks it to stop by sending anything, or by ending."""

    def __init__(self, connection: Channel) -> None:
        self._connection = connection

    def send(self, message: Progress | Ended) -> None:
        with suppress(OSError):  # the sweep has ended
            self._connection.send(message)

    def stop_requested(self) -> bool:
        return self._connection.poll()

    def check(self) -> None:
        """Raise StoppedError if the sweep asks to stop."""
        if self.stop_requested():
            raise StoppedError


def work(connection: Connection, task: Task, device: str, dataset: ImageDataset | None) -> None:
    """Train and evaluate the run of ``task`` on ``device``, and tell the sweep by ``connection`` what happens.

    Args:
        dataset: the images, if they are loaded already.
    """
    # Ctrl-C reaches all processes of a terminal; what it means is the sweep's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = Line(connection)
    line.send(outcome(task, device, dataset, line))


def outcome(task: Task, device: str, dataset: ImageDataset | None, line: Line) -> Ended:
    """Train and evaluate the run of ``task`` on ``device``. Returns: how it has ended."""
    try:
        train_and_evaluate(task, device, dataset, line)
    except StoppedError:
        return Ended("stopped")
    except Exception as error:
        return Ended("failed", " ".join(f"{error}".split()) or type(error).__name__)
    return Ended("finished")


def train_and_evaluate(task: Task, device: str, dataset: ImageDataset | None, line: Line) -> None:
    """Take the remaining steps of the run, and evaluate it.

    Raises: StoppedError; the errors of training and of the evaluation.
    """
    from threadpoolctl import threadpool_limits

    from betavae_fast.evaluation import report
    from betavae_fast.evaluation.evaluate import evaluate
    from betavae_fast.training import loop
    from betavae_fast.training.trained_run import TrainedRun

    # NumPy's and SciPy's BLAS have threads of their own, one for each core or as many as the environment says.
    limited = threadpool_limits(task.run.config.threads)
    with limited, _opened(task, device, dataset, line) as (state, folder):
        assert folder is not None, "a single process writes"
        line.send(Progress(state.step))
        loop.train(
            state,
            folder,
            on_entry=lambda entry: line.send(Progress(entry.step, entry)),
            should_stop=line.stop_requested,
        )
        line.check()
        run = TrainedRun.of(state, folder)
        line.send(Progress(state.step, run.history[-1], "evaluating"))
        evaluation = evaluate(
            run.model,
            run.images(),
            task.metrics,
            precision=run.precision,
            on_images=lambda count: line.check(),
            on_metric=lambda name: line.check(),
        )
        write_json(run.folder.summary, evaluation.summary)  # as ``train`` leaves it
        report.write(run, evaluation, name=task.run.name)


@contextmanager
def _opened(task: Task, device: str, dataset: ImageDataset | None, line: Line) -> Iterator[OpenRun]:
    """Open the run. While another process has it open, which must be about to end, wait."""
    deadline = time.monotonic() + _LOCK_SECONDS
    with ExitStack() as held:
        while True:
            try:
                opened = held.enter_context(_open(task, device, dataset))
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                line.check()
                time.sleep(0.2)
        yield opened


def _open(task: Task, device: str, dataset: ImageDataset | None) -> AbstractContextManager[OpenRun]:
    from betavae_fast.training.run import new_run, resumed_run

    config = replace(task.run.config, device=device)
    if RunFolder(task.folder).config.exists():
        changes = {name: getattr(config, name) for name in ADOPTED}
        return resumed_run(task.folder, changes, dataset=dataset)
    return new_run(config, task.folder, dataset=dataset)

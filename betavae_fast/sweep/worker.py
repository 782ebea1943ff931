"""Trains and evaluates a run of a sweep in a process of its own, or several side by side."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
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


def work(
    connections: Sequence[Connection], tasks: Sequence[Task], device: str, dataset: ImageDataset | None
) -> None:
    """Train and evaluate the runs of ``tasks`` on ``device``, and tell the sweep what happens to each by its connection.

    Args:
        dataset: the images of all, if they are loaded already.
    """
    # Ctrl-C reaches all processes of a terminal; what it means is the sweep's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines = [Line(connection) for connection in connections]
    if len(tasks) > 1:
        _train_and_evaluate_side_by_side(tasks, device, dataset, lines)
    else:
        lines[0].send(outcome(tasks[0], device, dataset, lines[0]))


def outcome(task: Task, device: str, dataset: ImageDataset | None, line: Line) -> Ended:
    """Train and evaluate the run of ``task`` on ``device``. Returns: how it has ended."""
    return _end_of(lambda: train_and_evaluate(task, device, dataset, line))


def train_and_evaluate(task: Task, device: str, dataset: ImageDataset | None, line: Line) -> None:
    """Take the remaining steps of the run, and evaluate it.

    Raises: StoppedError; the errors of training and of the evaluation.
    """
    from betavae_fast.training import loop

    with _opened(task, device, dataset, line) as run:
        line.send(Progress(run.state.step))
        loop.train(
            *run,
            on_entry=lambda entry: line.send(Progress(entry.step, entry)),
            should_stop=line.stop_requested,
        )
        _evaluate(task, run, line)


def _train_and_evaluate_side_by_side(
    tasks: Sequence[Task], device: str, dataset: ImageDataset | None, lines: Sequence[Line]
) -> None:
    """Do as ``train_and_evaluate`` with several runs, of which one may fail without the others."""
    from betavae_fast.training import loop, process

    process.separate_queues()
    going: list[tuple[Task, OpenRun, Line]] = []
    with ExitStack() as held:
        for task, line in zip(tasks, lines, strict=True):
            try:
                run = held.enter_context(_opened(task, device, dataset, line))
            except Exception as error:
                line.send(_end_by(error))
                continue
            dataset = run.state.dataset  # it is on the device, and the next runs share it
            line.send(Progress(run.state.step))
            going.append((task, run, line))
        failed = set()

        def on_failure(number: int, error: Exception) -> None:
            going[number][2].send(_end_by(error))
            failed.add(number)

        if going:
            loop.train_side_by_side(
                [run for _, run, _ in going],
                on_failure=on_failure,
                on_entry=lambda number, entry: going[number][2].send(Progress(entry.step, entry)),
                should_stop=lines[0].stop_requested,  # the sweep asks all at once
            )
        for number, (task, run, line) in enumerate(going):
            if number not in failed:
                line.send(_end_of(partial(_evaluate, task, run, line)))


def _end_of(block: Callable[[], object]) -> Ended:
    """Run ``block``, which ends a run. Returns: how it has ended."""
    try:
        block()
    except Exception as error:
        return _end_by(error)
    return Ended("finished")


def _end_by(error: Exception) -> Ended:
    if isinstance(error, StoppedError):
        return Ended("stopped")
    return Ended("failed", " ".join(f"{error}".split()) or type(error).__name__)


def _evaluate(task: Task, run: OpenRun, line: Line) -> None:
    """Evaluate a run that has taken its steps, or raise StoppedError if it was to stop."""
    from threadpoolctl import threadpool_limits

    from betavae_fast.evaluation import report
    from betavae_fast.evaluation.evaluate import evaluate
    from betavae_fast.training.trained_run import TrainedRun

    line.check()
    state, folder = run
    assert folder is not None, "a single process writes"
    trained = TrainedRun.of(state, folder)
    line.send(Progress(state.step, trained.history[-1], "evaluating"))
    # NumPy's and SciPy's BLAS have threads of their own, one for each core or as many as the environment says.
    with threadpool_limits(task.run.config.threads):
        dataset = trained.images()
        evaluation = evaluate(
            trained.model,
            dataset,
            task.metrics,
            precision=trained.precision,
            trained_on=trained.training_images(dataset),
            held_out=state.held_out,
            on_images=lambda count: line.check(),
            on_metric=lambda name: line.check(),
        )
    write_json(trained.folder.summary, evaluation.summary)  # as ``train`` leaves it
    report.write(trained, evaluation, name=task.run.name)


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

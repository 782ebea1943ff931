"""Trains the runs of a sweep on the nodes of a Ray cluster, each in a process of its own.

Ray chooses a node with a free GPU or free CPUs for each run. If a process or its node is lost, Ray starts the run again,
and it goes on after its last checkpoint. All nodes must therefore share the file system of the sweep's folder, and have
betavae_fast installed. Images in memory go to each node once, into Ray's object store, where its processes read them.
"""

from __future__ import annotations

import copy
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from betavae_fast.data.images import ImageDataset
from betavae_fast.sweep.forecast import Timing, time_run
from betavae_fast.sweep.local import ATTEMPTS, SharedImages
from betavae_fast.sweep.tasks import Ended, Progress, Task, Watcher
from betavae_fast.sweep.worker import Line, outcome
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.interrupt import StopRequest, stop_on_signal
from betavae_fast.training.validation import absolute_paths

Store = Callable[[ImageDataset | None], Any]

_CONNECT_SECONDS = 5.0
_POLL_SECONDS = 0.2


@contextmanager
def connected(address: str) -> Iterator[Store]:
    """Connect this process to the Ray cluster of which its machine is a node. Ray replaces the handler of SIGTERM.

    Args:
        address: "auto", the cluster that runs on this machine; or HOST:PORT of the cluster's head.
    Yields: a function that puts a data set into the cluster's object store, once.
    Raises: ValueError if ray is not installed, or for another form of address; OSError or RuntimeError if there is no
        such cluster.
    """
    # Ray prints what happens to its nodes and tasks; the watcher is told. Ray reads the variable when it is imported.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError:
        raise ValueError('--ray needs ray: pip install "betavae_fast[ray]"') from None
    if address != "auto":
        _check_reachable(address)  # Ray itself tries for minutes
    ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)

    @cache
    def store(dataset: ImageDataset | None) -> Any:
        return None if dataset is None else ray.put(_packed(dataset))

    try:
        yield store
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ValueError(f"--ray takes auto, or HOST:PORT of a Ray cluster's head, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"no Ray cluster at {address}: {error}") from None


def choose_device(device: str) -> str:
    """The device of every run: "cpu" or "cuda". "auto" is cuda if a node of the connected cluster has a GPU.

    Raises: ValueError for another name; which GPU a run gets is Ray's choice.
    """
    import ray

    if device == "auto":
        return "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"
    if device not in ("cpu", "cuda"):
        raise ValueError(f"on a Ray cluster, device must be auto, cpu or cuda, got {device!r}")
    return device


def train_with_ray(
    tasks: Sequence[Task],
    images: SharedImages,
    watcher: Watcher,
    *,
    store: Store,
    device: str,
    jobs: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train and evaluate the runs of ``tasks`` on the connected Ray cluster until all have ended.

    After ``should_stop`` has returned True, the runs that are going on finish their steps and are saved, and no other
    begins.

    Args:
        tasks: runs whose folders lie in one folder, which all nodes of the cluster share.
        store: puts data sets into the cluster's object store; see ``connected``.
        device: "cpu", where a run has as many CPUs as threads, or "cuda", where it has a GPU.
        jobs: the number of runs that are trained at the same time; None: as many as the cluster has room for.
    Raises: ValueError if no node has room for a run; RuntimeError if a node cannot train, since it does not share the
        folder or lacks betavae_fast.
    """
    if not tasks:
        return
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    threads = max(task.run.config.threads or 1 for task in tasks)
    room(device, threads)
    # A process trains one run, since it keeps the memory that its steps free.
    train = ray.remote(max_calls=1, max_retries=ATTEMPTS - 1, **_needs(device, threads))(_train)
    waiting, going = list(tasks), dict[Any, Task]()
    stopping = False
    with _marker(tasks[0].folder.absolute().parent) as marker:
        try:
            while going or (waiting and not stopping):
                while waiting and not stopping and len(going) < (jobs or len(tasks)):
                    task = waiting.pop(0)
                    dataset = store(images.of(task.run.config))
                    going[train.remote(_anywhere(task), device, dataset, marker, messages)] = task
                if not stopping and should_stop():
                    stopping = True
                    for attempt in going:
                        ray.cancel(attempt)
                ended, _ = ray.wait(list(going), timeout=_POLL_SECONDS)
                _pass_on(messages, going.values(), watcher)
                for attempt in ended:
                    task, end = going.pop(attempt), _end(attempt)
                    if end.how == "stopped" and not stopping:  # by the system, which stops the node
                        waiting.insert(0, task)
                    else:
                        watcher.on_end(task.run, end)
        finally:
            for attempt in going:
                ray.cancel(attempt, force=True)


def time_with_ray(config: TrainConfig, images: SharedImages, *, store: Store, device: str) -> Timing | None:
    """Time a run with ``config`` on a node of the connected Ray cluster. None if its training fails."""
    import ray
    from ray.exceptions import RayError

    time = ray.remote(max_calls=1, **_needs(device, config.threads or 1))(_time)
    config = replace(absolute_paths(config), device=device)
    try:
        return ray.get(time.remote(config, store(images.of(config))))
    except RayError:
        return None


def room(device: str, threads: int) -> int:
    """The number of runs that the nodes of the connected Ray cluster can train at the same time.

    Raises: ValueError if it is none. Ray would wait for another node, without a word.
    """
    import ray

    cpus, gpus = _needs(device, threads).values()
    found = 0
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"]:
            found += int(min(has.get("CPU", 0) // cpus, has.get("GPU", 0) // gpus if gpus else inf))
    if not found:
        gpu = " and a GPU" if gpus else ""
        raise ValueError(
            f"a run needs {cpus} CPUs{gpu} (threads {cpus}), which no node of the Ray cluster has"
        )
    return found


def _needs(device: str, threads: int) -> dict[str, int]:
    return {"num_cpus": threads, "num_gpus": int(device == "cuda")}


@contextmanager
def _marker(folder: Path) -> Iterator[Path]:
    """A file in ``folder``, by which a process on another node knows that it sees the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folder, prefix=".ray-") as file:
        yield Path(file.name)


def _anywhere(task: Task) -> Task:
    """The task with absolute paths, since a process on another node has another working directory."""
    config = absolute_paths(task.run.config)
    return replace(task, run=replace(task.run, config=config), folder=task.folder.absolute())


def _pass_on(messages: Any, tasks: Iterable[Task], watcher: Watcher) -> None:
    """Tell the watcher what the runs of ``tasks`` have said. A run that has ended may still speak from a lost node."""
    runs = {task.run.name: task.run for task in tasks}
    for name, progress in messages.get_nowait_batch(messages.qsize()):
        if name in runs:
            watcher.on_progress(runs[name], progress)


def _end(attempt: Any) -> Ended:
    """Find out how a run has ended. Raises: RuntimeError if its node cannot train."""
    import ray
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError

    try:
        return ray.get(attempt)
    except TaskCancelledError:  # before it began
        return Ended("stopped")
    except RayTaskError as error:
        cause = f"{error.cause}".strip().splitlines()[-1]  # Ray puts a traceback before it
        raise RuntimeError(f"a node of the Ray cluster cannot train: {cause}") from None
    except RayError as error:
        return Ended("killed", f"{error}".strip().splitlines()[0])


class _Connection:
    """The channel between a worker and its sweep: messages go into a queue, and SIGINT asks to stop."""

    def __init__(self, name: str, messages: Any, request: StopRequest) -> None:
        self._name, self._messages, self._request = name, messages, request

    def send(self, message: Progress | Ended) -> None:
        self._messages.put((self._name, message))

    def poll(self) -> bool:
        return self._request.requested


def _time(config: TrainConfig, dataset: ImageDataset | None) -> Timing:
    return time_run(config, None if dataset is None else _unpacked(dataset))


def _train(task: Task, device: str, dataset: ImageDataset | None, marker: Path, messages: Any) -> Ended:
    """Train and evaluate a run, in a process that Ray has started for it. To cancel a task, Ray sends it SIGINT.

    Raises: FileNotFoundError if the sweep's folder is not the one that this node sees.
    """
    if not marker.exists():
        raise FileNotFoundError(
            f"{socket.gethostname()} does not see the sweep's folder {marker.parent}; give --out on a file system that "
            "all nodes share"
        )
    with stop_on_signal() as request:
        line = Line(_Connection(task.run.name, messages, request))
        return outcome(task, device, None if dataset is None else _unpacked(dataset), line)


class _Flat(NamedTuple):
    """The elements of a dense tensor in the order of its memory, as an array that Ray reads from its store in place."""

    elements: npt.NDArray[Any]
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> _Flat:
        elements = tensor.as_strided((tensor.numel(),), (1,)).numpy()
        return cls(elements, tuple(tensor.shape), tensor.stride())

    def tensor(self) -> Tensor:
        with warnings.catch_warnings():  # that the memory is read-only; nothing writes into a data set
            warnings.simplefilter("ignore")
            return torch.from_numpy(self.elements).as_strided(self.size, self.stride)


def _packed(dataset: ImageDataset) -> ImageDataset:
    """A copy of the data set for Ray's store, with the same memory: its tensors are ``_Flat``."""
    packed = copy.copy(dataset)
    vars(packed).update({k: _Flat.of(v) for k, v in vars(dataset).items() if isinstance(v, Tensor)})
    return packed


def _unpacked(packed: ImageDataset) -> ImageDataset:
    """The data set of ``_packed``, with the same memory."""
    dataset = copy.copy(packed)
    vars(dataset).update({k: v.tensor() for k, v in vars(packed).items() if isinstance(v, _Flat)})
    return dataset

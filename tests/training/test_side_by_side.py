"""Runs side by side: each gets what it gets alone. Only a GPU shows that their steps are computed at the same time."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import permutations

import pytest
import torch

from betavae_fast.training import graph, loop, process
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import read_log
from betavae_fast.training.resume import read_run, resume
from betavae_fast.training.run_folder import create_run_folder
from betavae_fast.training.step import TrainStep
from tests.training.recording import Recording

CONFIG = TrainConfig(
    data="tiny", latent_dim=3, steps=12, batch_size=8, log_every=5, device="cpu", precision="fp32"
)
CUDA = torch.device("cuda")
# The last one ends before its step would be recorded.
DIFFERENT = (
    {},
    {"objective": "factorvae", "seed": 1, "steps": 6},
    {"objective": "geco", "reconstruction_limit": 40.0, "lr": 1e-2, "checkpoint_every": 4, "log_every": 3},
    {"lr_schedule": "cosine", "beta_warmup": 6, "steps": 20, "accumulate": 2, "clip_grad_norm": 0.5},
    {"precision": "bf16", "batch_size": 4, "architecture": "mlp", "steps": 2},
)


def configs(**common) -> list[TrainConfig]:
    return [TrainConfig.from_entries(CONFIG.entries() | changes | common) for changes in DIFFERENT]


def states(dataset, **common):
    return [loop.prepare(config, dataset) for config in configs(**common)]


def everything(state):
    tensors = [*state.model.state_dict().values(), *state.objective.state_dict().values()]
    for optimizer in (state.optimizer, state.objective.optimizer):
        if optimizer is not None:
            tensors += [t for values in optimizer.state.values() for t in values.values()]
    return [tensor.detach().cpu() for tensor in tensors]


def assert_same(one, two):
    for first, second in zip(one, two, strict=True):
        assert first.step == second.step
        assert all(torch.equal(a, b) for a, b in zip(everything(first), everything(second), strict=True))


def without_times(entry):
    return {**asdict(entry), "seconds": 0, "images_per_second": 0}


def side_by_side(found, folders=None, **hooks) -> dict[int, Exception]:
    failures: dict[int, Exception] = {}
    runs = list(zip(found, folders or [None] * len(found), strict=True))
    loop.train_side_by_side(runs, on_failure=failures.__setitem__, **hooks)
    return failures


class FakeCuda:
    """Streams without a GPU, and graphs that are recordings of operations. ``events`` has what was done, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, int, int]] = []
        self.streams = 0
        self.current = self.Stream(self)
        fakes: dict[str, Callable] = {
            "Stream": lambda device: self.Stream(self),
            "stream": self.stream,
            "current_stream": lambda device=None: self.current,
            "CUDAGraph": lambda: self.Graph(self),
            "graph": self.graph,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(loop, "graphed", lambda step, device: graph.graphed(step, CUDA))
        monkeypatch.setattr(loop, "side_streams", lambda device, count: graph.side_streams(CUDA, count))
        monkeypatch.setattr(loop, "_runs_behind", lambda device: True)

    class Stream:
        def __init__(self, cuda: FakeCuda) -> None:
            self.cuda, self.number = cuda, cuda.streams
            cuda.streams += 1

        def wait_stream(self, other) -> None:
            self.cuda.events.append(("wait", self.number, other.number))

    class Graph:
        def __init__(self, cuda: FakeCuda) -> None:
            self.cuda, self.recording, self.ran = cuda, Recording(), False

        def replay(self) -> None:
            self.cuda.events.append(("replay", self.cuda.current.number, id(self)))
            if self.ran:
                self.recording.replay()
            self.ran = True  # a recording is made by running it once, a graph is not

    def stream(self, stream):
        return _Entered(self, stream)

    @contextmanager
    def graph(self, graph, stream, capture_error_mode):
        assert stream is self.current and capture_error_mode == "thread_local"
        self.events.append(("capture", stream.number, id(graph)))
        with graph.recording:
            yield


class _Entered:
    def __init__(self, cuda: FakeCuda, stream) -> None:
        self.cuda, self.stream = cuda, stream

    def __enter__(self) -> None:
        self.before, self.cuda.current = self.cuda.current, self.stream

    def __exit__(self, *error: object) -> None:
        self.cuda.current = self.before


def test_each_run_gets_what_it_gets_alone(dataset, tmp_path):
    alone, together = states(dataset), states(dataset)
    folders = {
        kind: [create_run_folder(c, tmp_path / kind / f"{i}") for i, c in enumerate(configs())]
        for kind in ("alone", "together")
    }
    for state, folder in zip(alone, folders["alone"], strict=True):
        loop.train(state, folder)
    said = []
    failures = side_by_side(
        together, folders["together"], on_entry=lambda run, entry: said.append((run, entry))
    )
    assert not failures and all(state.finished and not state.model.training for state in together)
    assert_same(alone, together)
    for run, (one, two) in enumerate(zip(*folders.values(), strict=True)):
        log = read_log(two.metrics)
        assert list(map(without_times, log)) == list(map(without_times, read_log(one.metrics)))
        assert log == [entry for number, entry in said if number == run]
        first, second = load_checkpoint(one.checkpoint), load_checkpoint(two.checkpoint)
        assert first.step == second.step == together[run].step
        assert all(torch.equal(tensor, second.model[name]) for name, tensor in first.model.items())


def test_a_stop_saves_all_and_each_goes_on_from_its_own_step(dataset, tmp_path):
    whole = states(dataset)
    assert not side_by_side(whole)
    folders = [create_run_folder(config, tmp_path / f"{i}") for i, config in enumerate(configs())]
    stops = iter([False] * 3 + [True])
    assert not side_by_side(states(dataset), folders, should_stop=lambda: next(stops))
    loop.train(resume(folders[0], *read_run(folders[0]), dataset), folders[0], should_stop=lambda: True)
    halves = [resume(folder, *read_run(folder), dataset) for folder in folders]
    assert [state.step for state in halves] == [4, 3, 3, 3, 2]
    assert not side_by_side(halves, folders)
    assert_same(whole[:-1], halves[:-1])  # the last was finished before
    assert [entry.step for entry in read_log(folders[2].metrics)] == [3, 4, 6, 8, 9, 12]


def test_an_error_ends_the_run_that_has_it_alone(dataset, tmp_path):
    config = replace(CONFIG, checkpoint_every=3)
    found = [loop.prepare(replace(config, seed=seed), dataset) for seed in range(3)]
    folders = [create_run_folder(config, tmp_path / f"{i}") for i in range(3)]

    def spoil(run, entry):
        if (run, entry.step) == (1, 3):
            found[1].model.decoder.fc1.bias.data.fill_(float("nan"))

    failures = side_by_side(found, folders, on_entry=spoil)
    assert failures.keys() == {1} and isinstance(failures[1], loop.DivergedError)
    assert str(failures[1]) == "the model's decoder.fc1.bias is not finite after step 3"
    assert [folder.checkpoint.exists() for folder in folders] == [True, False, True]
    alone = [loop.prepare(replace(config, seed=seed), dataset) for seed in (0, 2)]
    for state in alone:
        loop.train(state, None)
    assert_same(alone, [found[0], found[2]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deterministic": False}, "runs side by side have the same deterministic, got False and True"),
        ({"device": "meta"}, "runs side by side have the same device, got cpu and meta"),
    ],
)
def test_what_cannot_run_side_by_side_is_refused(dataset, changes, message):
    found = [loop.prepare(CONFIG, dataset) for _ in range(2)]
    found[1].config = replace(found[1].config, **changes)
    found[1].device = torch.device(found[1].config.device)
    with pytest.raises(ValueError, match=message):
        side_by_side(found)


def test_one_data_set_serves_all(dataset):
    moved = loop.prepare(CONFIG, dataset).dataset
    one, two = (loop.prepare(replace(CONFIG, seed=seed), moved).dataset for seed in (0, 1))
    assert one.store.data_ptr() == two.store.data_ptr() == moved.store.data_ptr()


@pytest.mark.parametrize(("before", "after"), [(None, "32"), ("4", "4")])
def test_each_stream_gets_a_queue_unless_the_user_has_said_how_many(monkeypatch, before, after):
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", before or "")
    if before is None:
        monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS")
    process.separate_queues()
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == after


def recorded(state) -> tuple[TrainStep, Recording]:
    """A run's step after the warm-up of its graph, and the operations of the next step, which are done then."""
    step = TrainStep(state, state.model)
    step.load_order(0)
    for _ in range(3):
        step()
    with Recording() as recording:
        step()
    return step, recording


@pytest.mark.usefixtures("as_on_a_gpu")
def test_no_step_writes_what_another_uses(dataset):
    found = [recorded(state) for state in states(dataset)]
    memory = [recording.memory() for _, recording in found]
    for (used, _), (_, written) in permutations(memory, 2):
        assert not used & written
    # All read the images. Two steps of one run would not be separate.
    images = found[0][0]._state.dataset.store.untyped_storage().data_ptr()
    assert all(images in used for used, _ in memory)
    _, again = recorded(found[0][0]._state)
    assert memory[0][0] & again.memory()[1]


@pytest.mark.parametrize("order", range(3))
@pytest.mark.usefixtures("as_on_a_gpu")
def test_operations_of_several_steps_may_be_mixed(dataset, order):
    """As a GPU does that runs the graphs of all at the same time."""
    generator = random.Random(order)
    alone, together = states(dataset), states(dataset)
    for state in alone:
        step, _ = recorded(state)
        step()
    recordings = [recorded(state)[1] for state in together]
    going = [recording.replayed() for recording in recordings]
    while going:
        one = generator.choice(going)
        if next(one, one) is one:
            going.remove(one)
    assert_same(alone, together)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_each_run_is_recorded_and_replayed_on_its_own_stream(dataset, monkeypatch):
    alone = states(dataset)
    for state in alone:
        loop.train(state, None)
    cuda, together = FakeCuda(monkeypatch), states(dataset)
    assert not side_by_side(together)
    assert_same(alone, together)
    outer, *own = range(cuda.streams)
    assert len(own) == len(DIFFERENT)
    # A stream begins after the work before it, and the work after it waits for it.
    assert cuda.events[: len(own)] == [("wait", stream, outer) for stream in own]
    assert cuda.events[-len(own) :] == [("wait", outer, stream) for stream in own]
    graphs: dict[int, set[int]] = {}
    for what, stream, of in cuda.events[len(own) : -len(own)]:
        assert what == "replay" or stream not in graphs, "a run is recorded once"
        graphs.setdefault(stream, set()).add(of)
    assert all(len(found) == 1 for found in graphs.values())
    replays = [stream for what, stream, _ in cuda.events if what == "replay"]
    assert replays == [
        own[run] for step in range(3, 20) for run in range(len(own)) if step < together[run].config.steps
    ]


def on_a_gpu(test):
    return pytest.mark.gpu(
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test)
    )


@on_a_gpu
def test_on_a_gpu_each_run_gets_the_bits_that_it_gets_alone(dataset, monkeypatch):
    alone, together = states(dataset, device="cuda"), states(dataset, device="cuda")
    for state in alone:
        loop.train(state, None)
    launches = []
    replay = torch.cuda.CUDAGraph.replay

    def counted(self):
        launches.append(torch.cuda.current_stream().cuda_stream)
        replay(self)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counted)
    assert not side_by_side(together)
    assert_same(alone, together)
    # One launch for each step after the warm-up, on a stream for each run.
    expected = [max(0, config.steps - 3) for config in configs()]
    assert sorted(map(launches.count, set(launches))) == sorted(filter(None, expected))
    assert torch.cuda.default_stream().cuda_stream not in launches


@on_a_gpu
def test_on_a_gpu_memory_does_not_grow_with_the_steps(dataset):
    found = states(dataset, device="cuda", steps=200, log_every=10)
    held: list[int] = []
    side_by_side(found, on_entry=lambda run, entry: held.append(torch.cuda.memory_reserved()))
    recorded_by_then = held[2 * len(found) :]
    assert len(recorded_by_then) > 10 * len(found) and len(set(recorded_by_then)) == 1


@on_a_gpu
def test_on_a_gpu_runs_share_the_images(dataset):
    on_gpu = dataset.to("cuda")
    found = states(on_gpu, device="cuda")
    assert {state.dataset.store.data_ptr() for state in found} == {on_gpu.store.data_ptr()}

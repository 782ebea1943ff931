"""Trains 1 to 32 models in one process on one GPU, and measures the images a second of all together and their memory.

    python -m benchmarks.side_by_side --device cuda

The Burgess network takes steps of 64 images of sprites, each model with a seed of its own. Each number of models is
measured in two ways:

- a graph each: `train_side_by_side`, which records a CUDA graph for each model and replays it on a stream of its own.
- one graph: the steps of all as branches of one CUDA graph, without log and checkpoints, for comparison.

The file is written anew after each result. On a CPU the steps are taken one after the other, to rehearse the command.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from statistics import median

import torch

from benchmarks.arguments import positive
from benchmarks.pages import markdown
from benchmarks.study import Run, Study
from benchmarks.trainers import shared_run
from betavae_fast.bench.results import Provenance
from betavae_fast.data.images import ByteImages, ImageDataset
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.device import convolutions
from betavae_fast.training.graph import graphed, side_stream
from betavae_fast.training.loop import train_side_by_side
from betavae_fast.training.process import separate_queues
from betavae_fast.training.state import TrainState, prepare
from betavae_fast.training.step import TrainStep

MODELS = (1, 2, 4, 8, 16, 32)
BATCH_SIZE, _TINY_BATCH_SIZE = 64, 8
# The warm-up and the recording of the graphs are in the first interval, which is not counted.
STEPS, INTERVALS = 600, 6


@dataclass(frozen=True)
class Together:
    """Models trained at the same time.

    Args:
        images_per_second: of all models together, the median of the intervals.
        memory: the most bytes that torch has reserved on the GPU; None on a CPU.
    """

    models: int
    way: str
    images_per_second: float
    memory: int | None


@dataclass(frozen=True)
class SideBySide(Provenance):
    """A result file; ``failed`` has the numbers of models that could not be trained, and why."""

    batch_size: int
    together: tuple[Together, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        return [f"side by side, {what}: {why}" for what, why in self.failed.items()]


def a_graph_each(states: list[TrainState], interval: int) -> list[float]:
    """Train the models by the package's own loop. Returns: the images a second of all, for each interval."""
    rates: list[list[float]] = [[] for _ in states]

    def on_failure(model: int, error: Exception) -> None:
        raise error

    train_side_by_side(
        [(state, None) for state in states],
        on_failure=on_failure,
        on_entry=lambda model, entry: rates[model].append(entry.images_per_second),
    )
    return [sum(of_all) for of_all in zip(*rates, strict=True)]


def one_graph(states: list[TrainState], interval: int) -> list[float]:
    """Take the steps of all models as branches of one graph. Returns: the images a second of all, for each interval."""
    device, config = states[0].device, states[0].config
    on_gpu, rates = device.type == "cuda", []
    with convolutions(deterministic=config.deterministic), side_stream(device):
        steps = [TrainStep(state, state.model) for state in states]
        for step in steps:
            step.load_order(0)
        take_steps = graphed(_branches(steps) if on_gpu else lambda: _in_turn(steps), device)
        for _ in range(config.steps // interval):
            start = time.perf_counter()
            for _ in range(interval):
                take_steps()
            if on_gpu:
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - start
            rates.append(len(states) * interval * states[0].batches.batch_size / seconds)
    return rates


def _in_turn(steps: list[TrainStep]) -> None:
    for step in steps:
        step()


def _branches(steps: list[TrainStep]) -> Callable[[], None]:
    """A call that takes all steps, each on a stream that begins at the current stream and ends in it."""
    streams = [torch.cuda.Stream() for _ in steps]

    def take() -> None:
        outer = torch.cuda.current_stream()
        for stream, step in zip(streams, steps, strict=True):
            stream.wait_stream(outer)
            with torch.cuda.stream(stream):
                step()
        for stream in streams:
            outer.wait_stream(stream)

    return take


WAYS = {"a graph each": a_graph_each, "one graph": one_graph}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", type=positive, nargs="+", default=MODELS, help=f"default: {' '.join(map(str, MODELS))}"
    )
    parser.add_argument(
        "--tiny", type=positive, metavar="STEPS", help="rehearse with a small network and so many steps"
    )


def measure(run: Run) -> Iterator[SideBySide]:
    separate_queues()
    config, dataset = _prepared(run)
    results = SideBySide(**run.origin, batch_size=_TINY_BATCH_SIZE if run.args.tiny else BATCH_SIZE)
    for models in run.args.models:
        for way, train in WAYS.items():
            with run.console.status(f"{models} models, {way}"):
                try:
                    found = _measured(config, dataset, models, way, train)
                except RuntimeError as error:  # out of memory, for one; the others can still be measured
                    failed = {**results.failed, f"{models} models, {way}": f"{error}".splitlines()[0]}
                    results = replace(results, failed=failed)
                else:
                    results = replace(results, together=(*results.together, found))
            yield results


def _prepared(run: Run) -> tuple[TrainConfig, ImageDataset]:
    """The settings of all models but their seeds, and their images on the device."""
    device = run.device.type
    if not run.args.tiny:
        state = shared_run(BATCH_SIZE, device)
        return replace(state.config, steps=STEPS, log_every=STEPS // INTERVALS), state.dataset
    pixels = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)
    steps = run.args.tiny
    config = TrainConfig(
        architecture="mlp",
        batch_size=_TINY_BATCH_SIZE,
        steps=steps,
        log_every=max(1, steps // 2),
        device=device,
        precision="fp32",
    )
    return config, ByteImages("tiny", pixels, (1, 8, 8)).to(run.device)


def _measured(
    config: TrainConfig,
    dataset: ImageDataset,
    models: int,
    way: str,
    train: Callable[[list[TrainState], int], list[float]],
) -> Together:
    on_gpu = dataset.device.type == "cuda"
    if on_gpu:
        gc.collect()  # the graphs of the models before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(dataset.device)
    with torch.cuda.device(dataset.device) if on_gpu else nullcontext():
        rates = train([prepare(replace(config, seed=s), dataset) for s in range(models)], config.log_every)
    memory = torch.cuda.max_memory_reserved(dataset.device) if on_gpu else None
    return Together(models, way, median(rates[1:] or rates), memory)


def show(results: SideBySide) -> str:
    """The rates and what they are of the rate of one model alone."""
    alone = {t.way: t.images_per_second for t in results.together if t.models == 1}
    rows = (
        (
            str(t.models),
            t.way,
            f"{t.images_per_second:,.0f}",
            f"{t.images_per_second / alone[t.way]:.2f}" if t.way in alone else "",
            "" if t.memory is None else f"{t.memory / 2**20:,.0f}",
        )
        for t in results.together
    )
    return markdown(("models:", "way", "images/s:", "× one model:", "memory, MiB:"), rows)


STUDY = Study(
    "benchmarks.side_by_side",
    __doc__,
    SideBySide,
    "side-by-side/MACHINE.json",
    measure,
    show,
    options,
    device="cuda",
    threads=False,
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

"""Times the GPU kernels with other cuts of their work than the default: ``python -m benchmarks.tuning --device cuda``.

Forward and backward of the latent op and of the log densities op run with more and with fewer CTAs or programs, and with
more and fewer tiles in each. Each is recorded as a CUDA graph, so that the kernels are timed and not the host. Writes
tuning/MACHINE.json anew after each problem.

On a CPU the C++ kernels run instead, with their fixed cut, to rehearse the command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from benchmarks.cuts import cuda_cut, triton_cut
from benchmarks.pages import markdown
from benchmarks.study import Run, Study
from betavae_fast.bench.registry import DTYPES, Op, Shape, get
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.runner import task
from betavae_fast.bench.timing import Effort, Task, Timing, clock_of, interleave
from betavae_fast.bench.units import seconds
from betavae_fast.ops.backends import CUDA_LIBRARY
from betavae_fast.training.graph import side_stream

Figures = Mapping[str, int]

# Large, medium and small problems of the latent op, and two batches of the log densities op.
PROBLEMS: dict[str, tuple[tuple[str, Shape, str], ...]] = {
    "cuda": (
        ("latent", (1 << 20, 64), "fp32"),
        ("latent", (1 << 20, 64), "bf16"),
        ("latent", (16384, 64), "fp32"),
        ("latent", (4096, 10), "fp32"),
        ("log_densities", (2048, 10), "fp32"),
        ("log_densities", (8192, 10), "fp32"),
    ),
    "cpu": (("latent", (16, 3), "fp32"), ("log_densities", (16, 3), "fp32")),
}
# With 1 as the number of CTAs or programs that is enough, each takes the most tiles for any shape. The cut of the default
# is among these, which shows how much two measurements of the same cut differ.
_TILES = (1, 2, 4, 8, 16, 32, 64)
CUTS: dict[tuple[str, str], tuple[Figures, ...]] = {
    ("cuda", "latent"): tuple({"enough_ctas": 1, "most_tiles": tiles} for tiles in _TILES),
    ("cuda", "log_densities"): tuple({"log_densities_ctas": ctas} for ctas in (512, 1024, 2048, 4096)),
    ("triton", "latent"): tuple({"MANY_PROGRAMS": 1, "MOST_TILES": tiles} for tiles in _TILES),
    ("triton", "log_densities"): tuple(
        {"MANY_PROGRAMS": programs, "MOST_SPLITS": splits}
        for programs, splits in product((512, 1024, 4096), (16, 32))
    ),
    ("cpp", "latent"): (),
    ("cpp", "log_densities"): (),
}
BACKENDS = {"cuda": ("cuda", "triton"), "cpu": ("cpp",)}
DEFAULT = "default"
_EFFORT = {
    "cuda": Effort(sample_seconds=0.002, task_seconds=0.1, min_samples=5, max_samples=30),
    "cpu": Effort(sample_seconds=0.0005, task_seconds=0.01, min_samples=3, max_samples=5),
}


@dataclass(frozen=True)
class Tried:
    """The seconds of a forward and a backward pass with each cut."""

    op: str
    shape: Shape
    dtype: str
    backend: str
    cuts: dict[str, Timing]
    failed: dict[str, str]

    @property
    def about(self) -> str:
        return f"{self.op} {self.shape} {self.dtype} {self.backend}"


@dataclass(frozen=True)
class Sweep(Provenance):
    tried: tuple[Tried, ...]

    @property
    def failures(self) -> list[str]:
        return [f"{t.about}: {name}: {why}" for t in self.tried for name, why in t.failed.items()]


def try_cuts(op: Op, shape: Shape, dtype: str, backend: str, device: torch.device) -> Tried:
    """Time one problem with every cut of a backend, side by side."""
    contender = next(c for c in op.contenders(device.type) if c.name == backend)
    if contender.missing:
        return Tried(op.name, shape, dtype, backend, {}, {DEFAULT: contender.missing})
    problem, forward = op.setup(shape, DTYPES[dtype], device, 0), contender.build()
    pool = None if device.type == "cpu" else torch.cuda.graph_pool_handle()
    tasks, failed = [], {}
    for figures in ({}, *CUTS[backend, op.name]):
        name = " ".join(f"{what}={value}" for what, value in figures.items()) or DEFAULT
        try:
            with _cut(backend, op.name, figures):
                call = task("forward+backward", name, problem, forward, max_calls=1).call
                tasks.append(Task(name, _recorded(call, device, pool)))
        except Exception as error:  # from a compiler or a launch; the other cuts can still be timed
            failed[name] = f"{type(error).__name__}: {error}"
    cuts = interleave(tasks, clock_of(device), _EFFORT[device.type]) if tasks else {}
    return Tried(op.name, shape, dtype, backend, cuts, failed)


def _cut(backend: str, op: str, figures: Figures) -> AbstractContextManager[None]:
    match backend:
        case "cuda":
            return cuda_cut(CUDA_LIBRARY, figures)
        case "triton":
            return triton_cut(op, figures)
    return nullcontext()


def _recorded(
    call: Callable[[object], object], device: torch.device, pool: Any
) -> Callable[[object], object]:
    """The call to time: on a GPU, the replay of its CUDA graph.

    Args:
        pool: the memory of the graphs. They share it, because none reads the results of another.
    """
    if device.type == "cpu":
        return call
    with side_stream(device):
        call(None)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        call(None)
    return lambda _: graph.replay()


def measure(run: Run) -> Iterator[Sweep]:
    tried: tuple[Tried, ...] = ()
    for backend, (op, shape, dtype) in product(BACKENDS[run.device.type], PROBLEMS[run.device.type]):
        with run.console.status(f"{op} {shape} {dtype} {backend}"):
            tried = (*tried, try_cuts(get(op), shape, dtype, backend, run.device))
        yield Sweep(**run.origin, tried=tried)


def show(results: Sweep) -> str:
    """The cuts of each problem, the fastest first."""
    rows = [
        (tried.about, name, seconds(timing.p50), f"{timing.p50 / default.p50:.3f}" if default else "")
        for tried in results.tried
        for default in [tried.cuts.get(DEFAULT)]
        for name, timing in sorted(tried.cuts.items(), key=lambda item: item[1].p50)
    ]
    return markdown(("problem", "cut", "time:", "of the default:"), rows)


STUDY = Study(
    "benchmarks.tuning",
    __doc__,
    Sweep,
    "tuning/MACHINE.json",
    measure,
    show,
    device="cuda",
    threads=False,
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

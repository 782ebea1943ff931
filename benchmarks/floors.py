"""Measures how fast any implementation of an op can be on this CPU: ``python -m benchmarks.floors --threads 2``.

The floor of an op is a loop that does only what the contract forces for each element: the same noise and the same
formulas, on aligned and padded data, without PyTorch (benchmarks/floor_loops/). It is compiled for each instruction set
and must agree with the op before it is timed. Forward and backward of eager code, of ours and of the floor are timed in
one interleaved run, with the parts of the floor: its arithmetic on data that stay in L1, its reads and writes without
arithmetic, the floor with its results in new tensors, and an autograd.Function that computes nothing. With AVX2,
PyTorch uses AVX2, too. Writes floors/MACHINE.json.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import ceil, lcm, prod
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import ROOT
from benchmarks.pages import markdown
from benchmarks.study import Run, Study, StudyError
from betavae_fast.bench.registry import Problem, Shape, get
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.runner import task
from betavae_fast.bench.timing import QUICK, CpuClock, Effort, Task, Timing, interleave
from betavae_fast.bench.units import seconds, times
from betavae_fast.functional import reparameterize_kl
from betavae_fast.functional.checks import choose_backend
from betavae_fast.ops.backends import cpu_capability
from betavae_fast.ops.log_densities import BACKWARD, FORWARD

LOOPS = ROOT / "benchmarks" / "floor_loops"
EAGER, OURS, FLOOR, NEW, HOST = "eager", "ours", "floor", "floor, new results", "empty Function"
ARITHMETIC, MEMORY, STREAMING = "arithmetic", "memory", "memory, streaming"
# The contender that is ours; a bool takes the least work to read of all targets.
_OURS = {"latent": "cpp", "bernoulli_nll": "cpp-bool", "log_densities": "cpp"}
PROBLEMS: tuple[tuple[str, Shape], ...] = (
    ("latent", (65536, 128)),
    ("latent", (65536, 16)),
    ("latent", (4096, 10)),
    ("latent", (64, 10)),
    ("bernoulli_nll", (1024, 1, 64, 64)),
    ("log_densities", (2048, 10)),
)
TINY: tuple[tuple[str, Shape], ...] = (
    ("latent", (64, 10)),
    ("bernoulli_nll", (2, 1, 64, 64)),
    ("log_densities", (256, 3)),
)
SETS = ("avx2", "avx512")
# The project's targets: times as fast as eager, by instruction set.
_LATENT: dict[Shape, int] = {(65536, 128): 12, (65536, 16): 8, (4096, 10): 4, (64, 10): 2}
TARGETS: dict[tuple[str, Shape, str], int]
TARGETS = {("latent", shape, "avx512"): factor for shape, factor in _LATENT.items()}
TARGETS |= {("bernoulli_nll", (1024, 1, 64, 64), chosen): 6 for chosen in SETS}
TARGETS |= {("log_densities", (2048, 10), chosen): 60 for chosen in SETS}
_EFFORT = Effort(
    sample_seconds=0.005, task_seconds=0.2, min_samples=3, max_samples=20
)  # a minute for two sets
_SEED = 7
_STRIP = 128  # elements; see elements.cpp
_LANES, _TILE, _GROUP = 16, 32, 8  # see pairs.cpp
_NEW_PAGES = 4 << 20  # bytes from which ours asks for huge pages, too
_HUGE_PAGES = 14  # MADV_HUGEPAGE


@dataclass(frozen=True)
class Floor:
    """The times of forward and backward together of one problem in float32."""

    op: str
    shape: Shape
    instruction_set: str
    calls: dict[str, Timing]

    def seconds(self, *names: str) -> float:
        """The least median of the calls that were measured."""
        return min(self.calls[name].p50 for name in names if name in self.calls)

    @property
    def loop(self) -> float:
        return self.seconds(FLOOR)

    @property
    def in_torch(self) -> float:
        """The seconds of the loop, with new tensors if they are large, and of an empty Function one after the other."""
        return self.seconds(NEW if NEW in self.calls else FLOOR) + self.seconds(HOST)


@dataclass(frozen=True)
class Floors(Provenance):
    floors: tuple[Floor, ...]


@dataclass(frozen=True)
class Loops:
    """The calls of one problem's loops.

    Args:
        whole: writes to ``outputs``, or to other tensors like them.
        results: what the last call of ``whole`` has computed, as the op returns it, and what the op computes.
    """

    whole: Callable[..., object]
    outputs: tuple[Tensor, ...]
    parts: dict[str, Callable[[], object]]
    results: Callable[[], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]


def build(folder: Path, instruction_set: str) -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """Compile the loops of elements and of pairs. Raises StudyError if that is not possible."""
    setup: Any = import_module("setup")  # the flags of the library
    try:
        cxx = setup.find_tool("CXX", "c++", "g++", "clang++")
    except setup.UnavailableError as error:
        raise StudyError(str(error).replace(" at install time", "")) from None
    scheduling = [flag for flag in setup.SCHEDULING_FLAGS.split() if setup.accepts(cxx, flag)]
    shared = [*setup.CXX_FLAGS.split(), *scheduling, *setup.INSTRUCTION_SETS[instruction_set].split()]
    shared += ["-fvisibility=default", "-w", "-fopenmp", "-shared"]

    def compiled(name: str, own_flags: str) -> ctypes.CDLL:
        output = folder / f"{name}.so"
        command = [cxx, *shared, *own_flags.split(), f"{LOOPS}/{name}.cpp", "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise StudyError(f"{cxx} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
        return ctypes.CDLL(str(output))

    with ThreadPoolExecutor() as pool:
        elements, pairs = pool.map(
            compiled, ("elements", "pairs"), (setup.OPS["latent"], setup.OPS["log_densities"])
        )
    return elements, pairs


def _call(function: Any, *arguments: Tensor | int) -> Callable[[], object]:
    """The call of a loop, with its arguments converted once."""
    converted = [ctypes.c_int64(a.data_ptr() if isinstance(a, Tensor) else a) for a in arguments]
    return _keeping(arguments, partial(function, *converted))


def _keeping(tensors: Sequence[Tensor | int], call: Callable[[], object]) -> Callable[[], object]:
    """The same call, which keeps the tensors alive whose addresses it has."""

    def keeping(_: object = tensors) -> object:
        return call()

    return keeping


def _memory(library: Any, threads: int, pieces: int, reads: list[Tensor], writes: list[Tensor]) -> list[Any]:
    """Calls that only read and write the arrays, through the caches and past them."""
    arrays = [*reads, *writes]
    of_arrays = ctypes.c_int64 * len(arrays)
    pointers = of_arrays(*(x.data_ptr() for x in arrays))
    sizes = of_arrays(*(x.nbytes // pieces for x in arrays))
    function, head = library.memory, map(ctypes.c_int64, (threads, pieces, len(reads), len(writes)))
    shared = (*head, pointers, sizes)
    return [_keeping(arrays, partial(function, *shared, ctypes.c_int64(streaming))) for streaming in (0, 1)]


def _padded(x: Tensor, elements: int) -> Tensor:
    result = torch.zeros(elements, dtype=x.dtype)
    result[: x.numel()] = x.detach().flatten()
    return result


def _both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        first()
        second()

    return call


def _loops(
    call: Callable[..., Callable[[], object]],
    outputs: tuple[Tensor, ...],
    memory: Sequence[Callable[[], object]],
    results: Callable[[], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]],
) -> Loops:
    """The calls of a problem.

    Args:
        call: makes the call of the loop from 0, or 1 to stay on the first tile, and the tensors for its results.
        memory: the calls that only read and write, through the caches and past them.
    """
    plain, streaming = memory
    parts = {
        FLOOR: call(0, *outputs),
        ARITHMETIC: call(1, *outputs),
        MEMORY: plain,
        STREAMING: streaming,
    }
    return Loops(lambda *new: call(0, *new)(), outputs, parts, results)


def latent_loops(library: Any, problem: Problem, threads: int) -> Loops:
    (mu, logvar), (grad_z, grad_kl) = problem.leaves, problem.output_grads
    rows, cols = mu.shape
    smallest = lcm(_STRIP, cols)
    size = smallest * max(1, 768 // smallest)
    tiles = ceil(mu.numel() / size)
    elements = tiles * size
    threads = min(threads, tiles)
    inputs = [_padded(x, elements) for x in (mu, logvar)]
    upstream, of_kl = _padded(grad_z, elements), (grad_kl / rows).repeat(size // cols)
    outputs = (*(torch.zeros(elements) for _ in range(3)), torch.zeros(cols))

    def both(still: int, z: Tensor, of_mu: Tensor, of_logvar: Tensor, kl: Tensor) -> Callable[[], object]:
        head: tuple[Tensor | int, ...] = (threads, tiles, size, still, _SEED, 0, *inputs)
        return _both(
            _call(library.latent_forward, *head, z, kl, cols, rows),
            _call(library.latent_backward, *head, upstream, of_kl, of_mu, of_logvar),
        )

    def results() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        z, of_mu, of_logvar = (x[: mu.numel()].view_as(mu) for x in outputs[:3])
        ours = tuple(reparameterize_kl(mu, logvar, seed=_SEED))
        return (z, outputs[3], of_mu, of_logvar), (
            *ours,
            *torch.autograd.grad(ours, (mu, logvar), (grad_z, grad_kl)),
        )

    forward = _memory(library, threads, tiles, inputs, [outputs[0]])
    backward = _memory(library, threads, tiles, [*inputs, upstream], [*outputs[1:3]])
    return _loops(both, outputs, [_both(*calls) for calls in zip(forward, backward, strict=True)], results)


def bernoulli_loops(library: Any, problem: Problem, threads: int) -> Loops:
    """The pixels must fill whole tiles: a padded one would add to the sum."""
    x, floats, _, bools, _ = problem.inputs
    size = 4 * _STRIP
    tiles = x.numel() // size
    elements = tiles * size
    logits, target = _padded(x, elements), _padded(bools.view(torch.uint8), elements)
    outputs = torch.zeros(elements), torch.zeros(1, dtype=torch.float64)

    def nll(still: int, grad: Tensor, total: Tensor) -> Callable[[], object]:
        return _call(library.bernoulli_nll, threads, tiles, size, still, logits, target, grad, total)

    def results() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        (value,) = get("bernoulli_nll").formula(tuple(t.detach().double() for t in (x, floats)), None)
        return (outputs[1][0], outputs[0][: x.numel()].view_as(x)), (value, x.detach().sigmoid() - floats)

    memory = _memory(library, threads, tiles, [logits, target], [outputs[0]])
    return _loops(nll, outputs, memory, results)


def pair_loops(libraries: tuple[Any, Any], problem: Problem, threads: int) -> Loops:
    """The sums of all powers, and their gradients for given ones of the logarithms; nothing of O(B D)."""
    elements, pairs = libraries
    z, mu, logvar = (x.detach() for x in problem.leaves)
    batch, dims = z.shape
    blocks, tiles = batch // _LANES, batch // _TILE
    k = (0.5 / torch.tensor(2.0).log()).sqrt()
    inverse = k * (-0.5 * logvar).exp()
    peak = -logvar * k * k - 0.5 * torch.tensor(2 * torch.pi).log2()
    bound = peak.amax(0)
    posteriors = torch.stack(
        [x.view(tiles, _TILE, dims).mT for x in (mu, inverse, peak - bound)], 2
    ).contiguous()

    def by_blocks(x: Tensor) -> Tensor:
        return x.reshape(blocks, _LANES, -1).mT.contiguous()

    def by_rows(x: Tensor) -> Tensor:
        return x.view(blocks, -1, _LANES).mT.reshape(batch, -1)

    rows = by_blocks(z)
    outputs = tuple(
        torch.zeros(shape)
        for shape in (
            (blocks, 1, _LANES),
            (blocks, dims, _LANES),
            (blocks, dims, _LANES),
            (threads, tiles, dims, 3, _TILE),
        )
    )
    generator = torch.Generator().manual_seed(0)
    grad_joint, grad_marginals = (torch.rand(batch, n, generator=generator) for n in (1, dims))
    of_joint, of_marginals = torch.zeros(outputs[0].shape), torch.zeros(outputs[1].shape)

    def both(
        still: int, joint: Tensor, marginals: Tensor, grad_z: Tensor, moments: Tensor
    ) -> Callable[[], object]:
        head: tuple[Tensor | int, ...] = (threads, blocks, tiles, dims, still, rows, posteriors)
        return _both(
            _call(pairs.log_densities_forward, *head, joint, marginals),
            _call(pairs.log_densities_backward, *head, of_joint, of_marginals, grad_z, moments),
        )

    both(0, *outputs)()
    of_joint.copy_(by_blocks(grad_joint) / outputs[0])
    of_marginals.copy_(by_blocks(grad_marginals) / outputs[1])

    def results() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        joint, marginals = by_rows(outputs[0]).log2() + bound.sum(), by_rows(outputs[1]).log2() + bound
        grad_z = -by_rows(outputs[2]) / k**2
        mass, pull, stretch = outputs[3].sum(0).permute(2, 0, 3, 1).reshape(3, batch, dims).unbind()
        ln2 = torch.tensor(2.0).log()
        found = (
            ln2 * joint[:, 0],
            ln2 * marginals,
            grad_z,
            pull * inverse / k**2,
            ln2 * stretch - 0.5 * mass,
        )
        # Minibatch-weighted sampling gives all pairs the same weight, that of 1 / B².
        settings = 0, batch, 0
        backend = choose_backend("floors", z, "cpp")
        logs = FORWARD[backend](z, mu, logvar, *settings)
        weight = 2 * torch.tensor(float(batch)).log()
        given = grad_joint[:, 0].to(logs[0].dtype), grad_marginals.to(logs[1].dtype)
        grads = BACKWARD[backend](*given, z, mu, logvar, *logs, *settings)
        return found, (*(x + weight for x in logs), *grads)

    written = [torch.zeros(batch, dims) for _ in range(3)]
    return _loops(both, outputs, _memory(elements, threads, tiles, [z, mu, logvar], written), results)


def check(loops: Loops) -> None:
    """Run the loops, and raise StudyError if they compute something else than the op."""
    loops.whole(*loops.outputs)
    compare(loops)


def compare(loops: Loops) -> None:
    """Raise StudyError if the last results differ from the op's by more than 1e-4 of the largest."""
    for found, expected in zip(*loops.results(), strict=True):
        scale = expected.detach().abs().max()
        error = ((found - expected).detach().abs().max() / scale).item()
        if not error < 1e-4:
            raise StudyError(f"a floor computes something else: its relative error is {error:.2g}")


class _Nothing(torch.autograd.Function):
    """Saves the inputs and makes results and gradients, whose numbers nobody writes."""

    @staticmethod
    def forward(ctx, shapes, *inputs):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)
        return tuple(inputs[0].new_empty(shape) for shape in shapes)

    @staticmethod
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        return None, *(torch.empty_like(x) for x in ctx.saved_tensors)


def _host(problem: Problem) -> Callable[[object], object]:
    leaves, grads = problem.leaves, problem.output_grads
    shapes = tuple(g.shape for g in grads)
    return lambda _: torch.autograd.grad(_Nothing.apply(shapes, *leaves), leaves, grads)


def _new(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """New tensors like these, with huge pages for large ones."""
    result = tuple(torch.empty_like(x) for x in outputs)
    for x in result:
        if x.nbytes >= _NEW_PAGES:
            begin = ceil(x.data_ptr() / 4096) * 4096
            size = (x.data_ptr() + x.nbytes) // 4096 * 4096 - begin
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), _HUGE_PAGES)
    return result


def loops_of(libraries: tuple[Any, Any], op: str, problem: Problem, threads: int) -> Loops:
    if op == "latent":
        return latent_loops(libraries[0], problem, threads)
    if op == "bernoulli_nll":
        return bernoulli_loops(libraries[0], problem, threads)
    return pair_loops(libraries, problem, threads)


def measure_with(
    instruction_set: str, problems: tuple[tuple[str, Shape], ...], threads: int, effort: Effort
) -> tuple[Floor, ...]:
    """The floors of one instruction set, in whose process ours and PyTorch use it, too."""
    torch.set_num_threads(threads)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        libraries = build(Path(folder), instruction_set)
        for name, shape in problems:
            op = get(name)
            problem = op.setup(shape, torch.float32, torch.device("cpu"), 0)
            loops = loops_of(libraries, name, problem, threads)
            check(loops)
            names = {EAGER: EAGER, _OURS[name]: OURS}
            tasks = [
                *(
                    task("forward+backward", names[c.name], problem, c.build(), 1)
                    for c in op.contenders("cpu")
                    if c.name in names
                ),
                *(Task(part, lambda _, call=call: call()) for part, call in loops.parts.items()),  # type: ignore[misc]
                Task(HOST, _host(problem)),
            ]
            if 4 * prod(shape) >= _NEW_PAGES:
                tasks.append(Task(NEW, lambda _, loops=loops: loops.whole(*_new(loops.outputs))))  # type: ignore[misc]
            found.append(Floor(name, shape, instruction_set, interleave(tasks, CpuClock(), effort)))
    return tuple(found)


def instruction_sets() -> tuple[str, ...]:
    """Those of ``SETS`` that this machine has and the library may use."""
    best = str(cpu_capability())
    if best in ("avx512", "avx512_bf16", "amx"):
        return SETS
    return (best,) if best in SETS else ()


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tiny", action="store_true", help="only tiny problems, for a test of the program")


def measure(run: Run) -> Iterator[Floors]:
    if not (sets := instruction_sets()):
        raise StudyError(f"the floors need AVX2 or AVX-512 and the C++ library, found {cpu_capability()}")
    problems, effort = (TINY, QUICK) if run.args.tiny else (PROBLEMS, _EFFORT)
    floors: tuple[Floor, ...] = ()
    before = dict(os.environ)
    for chosen in sets:
        # Both variables are read once in a process, so each set has its own.
        os.environ |= {"BETAVAE_FAST_CPU_CAPABILITY": chosen, "ATEN_CPU_CAPABILITY": chosen}
        try:
            with run.console.status(chosen), ProcessPoolExecutor(1, get_context("spawn")) as pool:
                floors += pool.submit(
                    measure_with, chosen, problems, torch.get_num_threads(), effort
                ).result()
        finally:
            os.environ.clear()
            os.environ |= before
        yield Floors(**run.origin, floors=floors)


def show(results: Floors) -> str:
    rows = []
    for f in results.floors:
        eager, ours, torch_floor = f.seconds(EAGER), f.seconds(OURS), f.in_torch
        target = TARGETS.get((f.op, f.shape, f.instruction_set))
        parts = f.seconds(ARITHMETIC), f.seconds(MEMORY, STREAMING), f.seconds(HOST)
        ratios = eager / ours, eager / f.loop, eager / torch_floor, ours / f.loop, ours / torch_floor
        cells = [*map(seconds, (eager, ours, f.loop, torch_floor, *parts)), *map(times, ratios)]
        rows.append((f.op, str(f.shape), f.instruction_set, *cells, f"{target}×" if target else ""))
    columns = (
        *("op", "shape", "set", "eager:", "ours:", "floor:", "floor in PyTorch:"),
        *("arithmetic:", "memory:", "empty Function:"),
        *("eager / ours:", "eager / floor:", "eager / floor in PyTorch:"),
        *("ours / floor:", "ours / floor in PyTorch:", "target:"),
    )
    return markdown(columns, rows)


STUDY = Study(
    "benchmarks.floors",
    __doc__,
    Floors,
    "floors/MACHINE.json",
    measure,
    show,
    options,
    partial=lambda args: args.tiny,
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

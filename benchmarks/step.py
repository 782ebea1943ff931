"""Times a whole training step: ours, the same network in the code people usually write, and a peer's model.

    python -m benchmarks.step --threads 2

Each contender has a process of its own, because contenders also differ in how their process keeps memory. First all take
the same 8 steps (same weights, batches and noise). A contender whose losses differ from eager's is named and not timed.
Then the others are timed in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import perf_counter, sleep
from typing import Any

import torch

from benchmarks.arguments import at_least, positive
from benchmarks.pages import markdown
from benchmarks.study import Run, Study
from benchmarks.trainers import IMAGES, TRAINERS, Trainer, absent
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.units import seconds, times

NETWORK = f"burgess, 1×64×64, 10 channels, Bernoulli, β = 4, float32, {IMAGES:,} images in memory"
BATCH_SIZES = {"cpu": (64, 1024), "cuda": (64, 512, 4096, 16384)}
# More steps cannot be compared: while the loss falls fast, rounding differences grow tenfold every few steps (1e-3 by
# step 24 at batch 256).
PARITY_STEPS = 8
# Relative error of the losses.
TOLERANCE = 1e-4
# Compiled convolutions (in every mode) and logarithms of rounded probabilities differ sooner, bfloat16 at once.
_OTHER_TOLERANCES = {"compile": 1e-3, "pythae": 1e-3, "ours, bf16": 3e-2}
_NOT_REACHED = "the run ended before it"
# After their work, OpenMP threads spin for a while and would take the cores from the next process.
_SETTLE_SECONDS = 0.3
# The steps that a CUDA graph takes before its recording, and one that records it.
_WARM_UP_STEPS = 4


@dataclass(frozen=True)
class StepTime:
    """The seconds of a step of one contender at one batch size.

    Args:
        loss_difference: largest relative difference from eager's losses in the parity steps.
        shares: shares of a profiled step's CPU time, by purpose; only for "ours".
    """

    contender: str
    batch_size: int
    p20: float
    p50: float
    p80: float
    samples: int
    loss_difference: float
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        return self.batch_size / self.p50


@dataclass(frozen=True)
class StepResults(Provenance):
    """A result file.

    Args:
        absent: contender -> reason why it was not measured.
        failed: "contender, N images" -> reason why it was not timed.
        left_out: "N images" -> reason why nothing was measured, for example because the run was stopped.
    """

    network: str
    measurements: tuple[StepTime, ...]
    absent: dict[str, str]
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        return [f"step, {contender}: {why}" for contender, why in self.failed.items()]

    def fastest(self, batch_size: int, over: str = "eager") -> float | None:
        """The least p50 of the contenders whose names begin with ``over``; None if there are none."""
        return min(
            (m.p50 for m in self.measurements if m.batch_size == batch_size and m.contender.startswith(over)),
            default=None,
        )

    def speedup(self, time: StepTime, over: str = "eager") -> float | None:
        """The fastest p50 of the contenders whose names begin with ``over``, at the same batch size, over this p50."""
        other = self.fastest(time.batch_size, over)
        return None if other is None else other / time.p50


def time_steps(
    batch_size: int, names: Sequence[str], device: str, threads: int, samples: int
) -> tuple[list[StepTime], dict[str, str]]:
    """Time the contenders in turns.

    A contender that raises an error, or whose losses in the parity steps differ from eager's, is dropped. If eager fails,
    all are dropped.

    Returns: the times, and the reasons for the contenders that were dropped.
    """
    context = get_context("spawn")
    workers: dict[str, Connection] = {}
    failed: dict[str, str] = {}
    processes = []
    try:
        for name in names:
            workers[name], theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, name, batch_size, device, threads), daemon=True
            )
            process.start()
            processes.append(process)
            theirs.close()  # closes this process's copy, so that the connection ends with the other process
        differences = _check(workers, failed)
        # Drawing their own noise makes them compile again and record their graph.
        _ask(names, workers, failed, "warm up")
        taken: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(samples):
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                if name in workers:
                    sleep(_SETTLE_SECONDS)
                    taken[name] += _ask((name,), workers, failed, "time").values()
        # The replay of a CUDA graph does not show its operators.
        profiled = ("ours",) if device == "cpu" else ()
        shares = _ask(profiled, workers, failed, "shares").get("ours", {})
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    if "eager" not in workers:
        _drop_all(workers, failed)
        return [], failed
    return [
        _step_time(name, batch_size, taken[name], differences[name], shares if name == "ours" else {})
        for name in workers
    ], failed


def _check(workers: dict[str, Connection], failed: dict[str, str]) -> dict[str, float]:
    """The relative difference of each contender's losses from eager's; if it is too large, move it to ``failed``."""
    losses = _ask(tuple(workers), workers, failed, "losses", PARITY_STEPS)
    if "eager" not in losses:
        _drop_all(workers, failed)
        return {}
    differences = {name: _largest_difference(found, losses["eager"]) for name, found in losses.items()}
    for name, difference in differences.items():
        allowed = tolerance(name)
        if not difference <= allowed:
            failed[name] = f"its losses differ from eager's by {difference:.1e}, more than {allowed:.0e}"
            del workers[name]
    return differences


def _drop_all(workers: dict[str, Connection], failed: dict[str, str]) -> None:
    failed |= dict.fromkeys(workers, "not compared, because eager failed")
    workers.clear()


def tolerance(name: str) -> float:
    """The allowed relative difference of a contender's losses from eager's."""
    kind = "compile" if name.startswith("compile") else name
    return _OTHER_TOLERANCES.get(kind, TOLERANCE)


def _step_time(
    name: str, batch_size: int, taken: list[float], difference: float, shares: dict[str, float]
) -> StepTime:
    deciles = statistics.quantiles(taken, n=10, method="inclusive")
    return StepTime(
        contender=name,
        batch_size=batch_size,
        p20=deciles[1],
        p50=statistics.median(taken),
        p80=deciles[7],
        samples=len(taken),
        loss_difference=difference,
        shares=shares,
    )


def _largest_difference(found: list[float], expected: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def _ask(
    names: Sequence[str], workers: dict[str, Connection], failed: dict[str, str], *question: Any
) -> dict[str, Any]:
    """Ask those of ``names`` that are still among ``workers``; a worker that fails is moved to ``failed``.

    All are asked before the first answer is awaited, so that they compile at the same time.

    Returns: the answers by name.
    """
    answers: dict[str, Any] = {}
    asked = [name for name in names if name in workers]
    for name in asked:
        with suppress(OSError):  # the process has ended; recv() below reports it
            workers[name].send(question)
    for name in asked:
        try:
            answer = workers[name].recv()
        except (EOFError, OSError):
            answer = RuntimeError("its process ended")
        if isinstance(answer, Exception):
            failed[name] = str(answer)
            del workers[name]
        else:
            answers[name] = answer
    return answers


def _work(connection: Connection, name: str, batch_size: int, device: str, threads: int) -> None:
    """Run a contender's process, which answers questions until it is ended."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        trainer = TRAINERS[device][name](batch_size, device)
        answers: dict[str, Callable[..., Any]] = {
            "losses": lambda steps: [trainer.loss_of_step(step) for step in range(steps)],
            "warm up": lambda: [trainer.step() for _ in range(_WARM_UP_STEPS)] and None,
            "time": lambda: _time(trainer, _synchronize(device)),
            "shares": lambda: _shares(trainer),
        }
        while True:
            kind, *arguments = connection.recv()
            connection.send(answers[kind](*arguments))
    except EOFError:
        pass  # the asking process has ended
    except Exception as error:
        said = str(error).strip().splitlines()
        connection.send(RuntimeError(f"{type(error).__name__}: {said[0] if said else 'without a message'}"))


def _synchronize(device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def _time(trainer: Trainer, synchronize: Callable[[], None]) -> float:
    """The seconds per step, over about half a second of steps. A first step wakes the threads and sets the number."""

    def run(steps: int) -> float:
        synchronize()
        start = perf_counter()
        for _ in range(steps):
            trainer.step()
        synchronize()
        return (perf_counter() - start) / steps

    return run(max(1, round(0.5 / run(1))))


# Purpose -> parts of operators' names; operators that match none count as "other".
_PURPOSES = {
    "convolutions": ("convolution", "ConvTranspose"),
    "linear layers": ("aten::mm", "aten::addmm"),
    "activations": ("clamp_min", "threshold_backward"),
    "likelihood": ("betavae_fast::likelihood",),
    "latent": ("betavae_fast::latent",),
    "optimizer": ("adam", "Adam"),
    "data": ("aten::index", "aten::gather"),
}


def _shares(trainer: Trainer) -> dict[str, float]:
    """The shares of a step's CPU time by purpose, as the profiler sees them; they add up to one."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(3):
            trainer.step()
    spent = dict.fromkeys((*_PURPOSES, "other"), 0.0)
    for event in profile.key_averages():
        purpose = next((p for p, words in _PURPOSES.items() if any(w in event.key for w in words)), "other")
        spent[purpose] += event.self_cpu_time_total
    total = sum(spent.values())
    return {purpose: round(time / total, 4) for purpose, time in spent.items()}


def show(results: StepResults) -> str:
    rows = (
        (
            *(f"{m.batch_size:,}", m.contender, *map(seconds, (m.p50, m.p20, m.p80))),
            *(f"{m.images_per_second:,.0f}", times(results.speedup(m) or 0), f"{m.loss_difference:.1e}"),
        )
        for m in results.measurements
    )
    columns = ("images:", "contender", "step:", "p20:", "p80:", "images/s:", "eager:", "losses differ by:")
    notes = [
        f"{m.contender}, {m.batch_size:,} images: "
        + ", ".join(f"{purpose} {share:.1%}" for purpose, share in m.shares.items())
        for m in results.measurements
        if m.shares
    ]
    notes += [f"without {name}: {why}" for name, why in results.absent.items()]
    notes += [f"{size} left out: {why}" for size, why in results.left_out.items()]
    table = markdown(columns, rows)
    return "\n".join((f"{results.network}.\n", table, "", *(f"- {note}" for note in notes)))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-sizes", type=positive, nargs="+", help="default: 64 1024; on a GPU 64 512 4096 16384"
    )
    parser.add_argument(
        "--samples", type=at_least(2), default=11, help="number of samples of each contender; default: 11"
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        help="contenders besides eager; default: all, but torch.compile only in its default mode",
    )


def measure(run: Run) -> Iterator[StepResults]:
    args, device = run.args, run.device.type
    there, missing = TRAINERS[device], absent()
    if unknown := set(args.contenders or ()) - there.keys():
        raise argparse.ArgumentTypeError(
            f"--contenders: no {', '.join(sorted(unknown))} on {device}; there are {', '.join(there)}"
        )
    chosen = ("eager", *(args.contenders or (name for name in there if "compile, " not in name)))
    names = [name for name in there if name in chosen and name not in missing]
    sizes = {f"{size} images": size for size in args.batch_sizes or BATCH_SIZES[device]}
    results = StepResults(
        **run.origin,
        network=NETWORK,
        measurements=(),
        absent=missing,
        left_out=dict.fromkeys(sizes, _NOT_REACHED),
    )
    for images, size in sizes.items():
        with run.console.status(images):
            found, failed = time_steps(size, names, device, torch.get_num_threads(), args.samples)
        results = replace(
            results,
            measurements=(*results.measurements, *found),
            failed=results.failed | {f"{name}, {images}": why for name, why in failed.items()},
            left_out={other: why for other, why in results.left_out.items() if other != images},
        )
        yield results


STUDY = Study(
    "benchmarks.step", __doc__, StepResults, "step/MACHINE.json", measure, show, options, device="cpu"
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

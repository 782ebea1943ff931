"""Measures what a sweep gains on the CPU: ``python -m benchmarks.sweep``.

The same runs (burgess, batch 64, 20,000 sprites) are trained and evaluated in two ways, in turns: one after the other
with all threads, and as many at a time as there are threads, with one thread each; both in each precision. The memory
that the images take is the proportional set size of a sweep of eight processes on all sprites, less that of the same
sweep on 64 of them. Writes sweep/MACHINE.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic, sleep

import numpy as np
import torch

from benchmarks import ROOT
from benchmarks.arguments import positive
from benchmarks.pages import markdown
from benchmarks.processes import started
from benchmarks.study import Run, Study, StudyError
from betavae_fast.bench.results import Provenance
from betavae_fast.data.dsprites import rendered_dsprites
from betavae_fast.training.precision import onednn_has_bf16

RUNS, STEPS, ROUNDS, IMAGES = 8, 500, 1, 20_000
_TRAINING_SECONDS, _PATIENCE = 10.0, 300.0


@dataclass(frozen=True)
class Way:
    """A way to train and evaluate all runs: the seconds of each round."""

    precision: str
    jobs: int
    threads: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes that the processes of a sweep hold while all of them train, beside the bytes of its images."""

    images: int
    all_sprites: int
    few_sprites: int


@dataclass(frozen=True)
class SweepResults(Provenance):
    runs: int
    steps: int
    ways: tuple[Way, ...]
    memory: Memory


def command(out: Path, data: Path | str, steps: int, precision: str, jobs: int, threads: int) -> list[str]:
    """The command line of a sweep over ``RUNS`` seeds."""
    options = {
        "data": data,
        "out": out,
        "seeds": RUNS,
        "steps": steps,
        "precision": precision,
        "jobs": jobs,
        "threads": threads,
        "log-every": 10,
        "metrics": "unsupervised",
    }
    return [
        *(sys.executable, "-m", "betavae_fast", "sweep"),
        *(f"--{name}={value}" for name, value in options.items()),
    ]


def seconds(data: Path, steps: int, precision: str, jobs: int, threads: int) -> float:
    """The duration of a whole sweep."""
    with tempfile.TemporaryDirectory() as folder:
        begun = monotonic()
        arguments = command(Path(folder, "sweep"), data, steps, precision, jobs, threads)
        if subprocess.run(arguments, stdout=subprocess.DEVNULL).returncode:
            raise StudyError("a sweep failed")
        return monotonic() - begun


def memory(data: Path | str) -> int:
    """The proportional set size of a sweep of ``RUNS`` processes and of all that it has started, while all train."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "sweep")
        arguments = command(out, data, 10**6, "fp32", RUNS, 1)
        with started(arguments, ROOT, {}, subprocess.DEVNULL, interrupted_for=30) as sweep:
            deadline = monotonic() + _PATIENCE
            while len(list(out.glob("*/metrics.jsonl"))) < RUNS:
                if sweep.poll() is not None or monotonic() > deadline:
                    raise StudyError("a sweep did not begin to train")
                sleep(0.2)
            largest, end = 0, monotonic() + _TRAINING_SECONDS
            while monotonic() < end:
                largest = max(largest, sum(map(_proportional_set_size, _session(sweep.pid))))
                sleep(0.5)
            return largest


def _session(leader: int) -> list[int]:
    """The processes of the session that ``leader`` leads."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def _proportional_set_size(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=positive, default=STEPS, help=f"of each run; default: {STEPS}")
    parser.add_argument("--rounds", type=positive, default=ROUNDS, help=f"default: {ROUNDS}")


def measure(run: Run) -> Iterator[SweepResults]:
    if not Path("/proc/self/smaps_rollup").exists():
        raise StudyError("the memory of processes is read from Linux's /proc")
    sprites, threads = rendered_dsprites(progress=False), torch.get_num_threads()
    chosen = torch.randperm(len(sprites), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        files = {count: Path(folder, f"{count}.npy") for count in (IMAGES, 64)}
        for count, file in files.items():
            np.save(file, sprites.gather(chosen[:count])[:, 0].numpy())
        precisions = ("fp32", "bf16") if onednn_has_bf16() else ("fp32",)
        ways = [(precision, *way) for precision in precisions for way in ((1, threads), (threads, 1))]
        taken: dict[tuple[str, int, int], list[float]] = {way: [] for way in ways}
        for number in range(run.args.rounds):
            for way, times in taken.items():
                with run.console.status(f"round {number + 1}, {way[0]}, {way[1]} at a time"):
                    times.append(round(seconds(files[IMAGES], run.args.steps, *way), 2))
        with run.console.status("memory"):
            found = Memory(sprites.store.nbytes, memory("dsprites"), memory(files[64]))
    measured = tuple(Way(*way, tuple(times)) for way, times in taken.items())
    yield SweepResults(**run.origin, runs=RUNS, steps=run.args.steps, ways=measured, memory=found)


def show(results: SweepResults) -> str:
    alone = {way.precision: median(way.seconds) for way in results.ways if way.jobs == 1}
    rows = [
        (
            way.precision,
            str(way.jobs),
            str(way.threads),
            f"{median(way.seconds):.0f}",
            f"{alone[way.precision] / median(way.seconds):.2f} ×",
        )
        for way in results.ways
    ]
    memory = results.memory
    share = (memory.all_sprites - memory.few_sprites) / memory.images
    return (
        markdown(("precision", "runs at a time:", "threads each:", "seconds:", "throughput:"), rows)
        + f"\n\n{results.runs} runs of {results.steps} steps, trained and evaluated. Eight processes that share "
        f"{memory.images / 1e6:.0f} MB of images hold {share:.2f} times as much for them, beside "
        f"{memory.few_sprites / 1e9:.1f} GB of their own.\n"
    )


STUDY = Study(
    "benchmarks.sweep",
    __doc__,
    SweepResults,
    "sweep/MACHINE.json",
    measure,
    show,
    options,
    partial=lambda args: (args.steps, args.rounds) != (STEPS, ROUNDS),
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

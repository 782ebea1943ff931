"""Compares the loss curves of bf16 and float32 over several seeds: ``python -m benchmarks.precision``.

Each seed trains once in each precision, from the same weights, with the same batches and noise. The curves of float32
span a band, and those of bf16 should stay within it: rounding then matters less than the seed. Writes MACHINE.json and
MACHINE.png into benchmarks/results/precision/.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.arguments import at_least
from benchmarks.pages import markdown
from benchmarks.study import Run, Study, tidy
from betavae_fast.bench.results import Provenance, save_by_lines
from betavae_fast.choices import Precision
from betavae_fast.data import ImageDataset
from betavae_fast.data.dsprites import rendered_dsprites
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import LogEntry
from betavae_fast.training.loop import train
from betavae_fast.training.process import keep_freed_memory
from betavae_fast.training.state import prepare

SEEDS, STEPS, LOG_EVERY, BATCH_SIZE = 5, 3000, 50, 64
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
_COLOURS = {"fp32": "#1f6fb4", "bf16": "#e07b00"}


@dataclass(frozen=True)
class Curve:
    """The run of a seed; ``loss`` has the mean of every ``LOG_EVERY`` steps, in nats per image."""

    precision: str
    seed: int
    loss: list[float]


@dataclass(frozen=True)
class PrecisionResults(Provenance):
    configuration: dict[str, object]
    curves: tuple[Curve, ...]

    def save(self, path: Path) -> None:
        save_by_lines(self, path, "precision")

    def at_each_step(self, precision: str) -> list[tuple[float, ...]]:
        """The losses of all seeds, for each logged step."""
        return list(zip(*(curve.loss for curve in self.curves if curve.precision == precision), strict=True))


def curve(precision: Precision, seed: int, dataset: ImageDataset, steps: int) -> Curve:
    config = TrainConfig(
        steps=steps,
        log_every=LOG_EVERY,
        batch_size=BATCH_SIZE,
        seed=seed,
        precision=precision,
        device="cpu",
    )
    entries: list[LogEntry] = []
    train(prepare(config, dataset), None, on_entry=entries.append)
    return Curve(precision, seed, [round(entry.loss, 3) for entry in entries])


def measure(run: Run) -> Iterator[PrecisionResults]:
    keep_freed_memory()
    dataset = rendered_dsprites(progress=False)
    configuration = {
        "steps": run.args.steps,
        "seeds": run.args.seeds,
        "log_every": LOG_EVERY,
        "batch_size": BATCH_SIZE,
    }
    curves: tuple[Curve, ...] = ()
    for seed in range(run.args.seeds):
        for precision in PRECISIONS:
            with run.console.status(f"seed {seed}, {precision}"):
                curves = (*curves, curve(precision, seed, dataset, run.args.steps))
        yield PrecisionResults(**run.origin, configuration=configuration, curves=curves)


def show(results: PrecisionResults) -> str:
    """The bands at a few steps, and how much of the way bf16 stays within that of float32."""
    bands = {precision: results.at_each_step(precision) for precision in PRECISIONS}
    steps = len(bands["fp32"])
    rows = []
    for at in sorted(
        {round(part * steps) - 1 for part in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)} & set(range(steps))
    ):
        cells = []
        for precision in PRECISIONS:
            losses = bands[precision][at]
            cells += [f"{statistics.median(losses):.1f}", f"{min(losses):.1f} to {max(losses):.1f}"]
        rows.append((f"{(at + 1) * LOG_EVERY:,}", *cells))
    within = sum(
        min(fp32) <= statistics.median(bf16) <= max(fp32)
        for fp32, bf16 in zip(bands["fp32"], bands["bf16"], strict=True)
    )
    seeds = len(results.curves) // len(PRECISIONS)
    return (
        markdown(("step:", "float32, median:", "range:", "bf16, median:", "range:"), rows)
        + f"\n\nLoss in nats per image, {seeds} seeds. The median of bf16 lies within the range of float32 at "
        f"{within} of {steps} logged steps.\n"
    )


def draw(results: PrecisionResults) -> Figure:
    """Draw the band of each precision, from the lowest to the highest loss, with its median."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    for precision in PRECISIONS:
        losses = results.at_each_step(precision)
        steps = [LOG_EVERY * (i + 1) for i in range(len(losses))]
        colour = _COLOURS[precision]
        axis.fill_between(steps, [min(x) for x in losses], [max(x) for x in losses], color=colour, alpha=0.2)
        axis.plot(steps, [statistics.median(x) for x in losses], color=colour, linewidth=1.3, label=precision)
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("loss, nats per image")
    axis.set_title(f"Median and range over {len(results.curves) // len(PRECISIONS)} seeds")
    tidy(axis)
    axis.legend(frameon=False)
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=at_least(LOG_EVERY), default=STEPS, help=f"default: {STEPS}")
    parser.add_argument("--seeds", type=at_least(1), default=SEEDS, help=f"default: {SEEDS}")


STUDY = Study(
    "benchmarks.precision",
    __doc__,
    PrecisionResults,
    "precision/MACHINE.json",
    measure,
    show,
    options,
    partial=lambda args: (args.steps, args.seeds) != (STEPS, SEEDS),
    draw=lambda results: {str(results.machine["kind"]): draw(results)},
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

"""``betavae-fast evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from betavae_fast.cli.errors import CommandError, usage_errors
from betavae_fast.cli.options import METRICS, Device, Metrics, RunData, Threads, chosen_metrics
from betavae_fast.cli.output import counting, print_scores
from betavae_fast.settings import at_least

if TYPE_CHECKING:
    from rich.console import Console

    from betavae_fast.data import ImageDataset
    from betavae_fast.evaluation.evaluate import Evaluation


def evaluate(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs.", metavar="RUN...", show_default=False)
    ],
    metrics: Metrics = METRICS,
    seed: Annotated[
        int, typer.Option(help="Seed of the metrics' random images and of the sampled codes.")
    ] = 0,
    jobs: Annotated[int, typer.Option(help="Processes for dci; -1: one per core.")] = -1,
    threads: Threads = None,
    device: Device = "auto",
    data: RunData = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; each of several runs gets a folder of its own in it.",
            show_default="each run's own folder, and ./comparison for the page that compares several",
        ),
    ] = None,
) -> None:
    """Measure how disentangled the codes of a run are, and draw them. Writes evaluation.json, report.html and pictures
    into the run's folder, or into the folder that --out names.

    All images are encoded once, and every metric uses this table of codes. MIG and modularity are computed from sampled
    codes as well as mean codes, everything else from mean codes only. Scores are given over all channels and over the
    channels in use. If the factors of the data are unknown, only the unsupervised scores and the pictures are made.
    Several runs also get a page that compares them.
    """
    from rich.console import Console

    from betavae_fast.data.identity import describe_difference
    from betavae_fast.evaluation import report
    from betavae_fast.evaluation.evaluate import evaluate as measure
    from betavae_fast.training.process import set_threads
    from betavae_fast.training.trained_run import open_run

    console = Console(highlight=False, markup=False, soft_wrap=True)
    loaded: dict[object, ImageDataset] = {}
    opened, done = [], []
    with usage_errors():
        chosen = chosen_metrics(metrics)
        at_least(0)("seed", seed)
        if jobs == 0:
            raise ValueError("jobs must not be 0")
        set_threads(threads)
        report.rehearse_pictures()
        comparison = Path("comparison") if out is None else out
        if len(runs) > 1:
            report.results_folder(comparison)
        for path, name in zip(runs, report.distinct_names(runs), strict=True):
            run = open_run(path, device, data=data)
            results = path if out is None else out if len(runs) == 1 else out / name
            opened.append((run, run.images(loaded), name, results))
            report.results_folder(results)
    for run, dataset, name, results in opened:
        console.print(f"Run: {run.folder.path}, after step {run.step}, {dataset!r}")
        if difference := describe_difference(dataset, run.trained_on):
            console.print(f"These are not the training images: {difference}")
        try:
            with _progress(console, len(dataset)) as callbacks:
                evaluation = measure(
                    run.model, dataset, chosen, seed=seed, jobs=jobs, precision=run.precision, **callbacks
                )
            written = report.write(run, evaluation, results, name=name)
        except (ValueError, OSError) as error:
            raise CommandError(f"{run.folder.path}: {error}") from error
        _print(console, evaluation)
        console.print(f"Report: {written}")
        done.append((run, evaluation))
    if len(done) > 1:
        with usage_errors():
            console.print(f"Comparison: {report.compare(done, comparison, seed=seed)}")


@contextmanager
def _progress(console: Console, images: int) -> Iterator[dict[str, Callable[[Any], object]]]:
    """Show a progress bar; yields the callbacks of an evaluation by name."""
    with counting(console, "Encoding", images) as (advance, describe):
        yield {"on_images": advance, "on_metric": lambda name: describe(f"Measuring {name}")}


def _print(console: Console, evaluation: Evaluation) -> None:
    for sentence in evaluation.findings:
        console.print(f"- {sentence}")
    print_scores(console, evaluation.rows)
    scoring = sum(scored.seconds for scored in evaluation.scores)
    parts = evaluation.seconds | {"metrics": scoring}
    console.print("Took " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items()))

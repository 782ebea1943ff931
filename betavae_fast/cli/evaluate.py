"""``betavae-fast evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from betavae_fast.cli.errors import CommandError, usage_errors
from betavae_fast.cli.options import (
    METRICS,
    Checkpoint,
    Device,
    Metrics,
    RunData,
    RunFactors,
    Threads,
    chosen_metrics,
    whole_numbers,
)
from betavae_fast.cli.output import counting, print_advice, print_scores
from betavae_fast.evaluation import DCI_ROWS, IMPORTANCE_IMAGES
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
    dci_rows: Annotated[
        int,
        typer.Option(
            help="Images that dci's trees learn from, 10,000 in published scores. The time of dci grows with it."
        ),
    ] = DCI_ROWS,
    images: Annotated[
        int | None,
        typer.Option(
            help="Number of images to encode, drawn at random. 100000 are enough for a first look at a large set.",
            show_default="all",
        ),
    ] = None,
    checkpoint: Checkpoint = "latest",
    importance_samples: Annotated[
        str | None,
        typer.Option(
            help="Codes per image for the importance-weighted bound of log p(x), such as 1,50,5000; 5000 takes minutes.",
            metavar="INTEGER,INTEGER,...",
            show_default="no such bound",
        ),
    ] = None,
    importance_images: Annotated[
        int, typer.Option(help="Images for that bound, held-out ones if the run has any.")
    ] = IMPORTANCE_IMAGES,
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        typer.Option(help="Precision of the networks; the codes are float32.", show_default="the training's"),
    ] = None,
    threads: Threads = None,
    device: Device = "auto",
    data: RunData = None,
    factors: RunFactors = None,
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

    All images, or as many as --images says, are encoded once, and every metric uses this table of codes. MIG and
    modularity are computed from sampled codes as well as mean codes, everything else from mean codes only. Scores are
    given over all channels and over the channels in use. If the factors of the data are unknown, only the unsupervised
    scores and the pictures are made.
    Several runs also get a page that compares them.

    If the run has held-out images, their losses stand beside those of the training images; the scores are of all images.
    """
    from rich.console import Console

    from betavae_fast.data.identity import describe_difference
    from betavae_fast.evaluation import report
    from betavae_fast.evaluation.advice import advice
    from betavae_fast.evaluation.evaluate import evaluate as measure
    from betavae_fast.training.precision import dtype_of
    from betavae_fast.training.process import set_threads
    from betavae_fast.training.run_folder import results_folder
    from betavae_fast.training.trained_run import open_run

    console = Console(highlight=False, markup=False, soft_wrap=True)
    loaded: dict[object, ImageDataset] = {}
    opened, done = [], []
    with usage_errors():
        chosen = chosen_metrics(metrics)
        samples = (
            () if importance_samples is None else whole_numbers("importance_samples", importance_samples)
        )
        at_least(1)("importance_images", importance_images)
        if images is not None:
            at_least(1)("images", images)
        at_least(0)("seed", seed)
        at_least(1)("dci_rows", dci_rows)
        if jobs == 0:
            raise ValueError("jobs must not be 0")
        set_threads(threads)
        report.rehearse_pictures()
        comparison = Path("comparison") if out is None else out
        if len(runs) > 1:
            results_folder(comparison)
        for path, name in zip(runs, report.distinct_names(runs), strict=True):
            run = open_run(path, device, data=data, factors=factors, kept=checkpoint)
            results = path if out is None else out if len(runs) == 1 else out / name
            opened.append((run, run.images(loaded), name, results))
            results_folder(results)
    for run, dataset, name, results in opened:
        unfinished = f" of {run.config.steps}" if 0 < run.step < run.config.steps else ""
        console.print(f"Run: {run.folder.path}, after step {run.step}{unfinished}, {dataset!r}")
        if difference := describe_difference(dataset, run.trained_on):
            console.print(f"These are not the training images: {difference}")
        try:
            held_out = run.held_out(dataset)
        except ValueError as error:  # they have moved, or are others now
            held_out = None
            console.print(f"Held-out images are not measured: {error}")
        try:
            count = len(dataset) if held_out is None else len(held_out.indices)
            codes = min(count, importance_images) * sum(samples)
            encoded = len(dataset) if images is None else min(images, len(dataset))
            with _progress(console, encoded, codes) as callbacks:
                evaluation = measure(
                    run.model,
                    dataset,
                    chosen,
                    seed=seed,
                    jobs=jobs,
                    dci_rows=dci_rows,
                    images=images,
                    precision=run.precision if precision is None else dtype_of(precision),
                    trained_on=run.training_images(dataset),
                    held_out=held_out,
                    importance_samples=samples,
                    importance_images=importance_images,
                    **callbacks,
                )
            written = report.write(run, evaluation, results, name=name)
        except (ValueError, OSError) as error:
            raise CommandError(f"{run.folder.path}: {error}") from error
        _print(console, evaluation)
        print_advice(console, advice(evaluation.summary, run.history, run.config))
        console.print(f"Report: {written}")
        done.append((run, evaluation))
    if len(done) > 1:
        with usage_errors():
            console.print(f"Comparison: {report.compare(done, comparison, seed=seed)}")


@contextmanager
def _progress(console: Console, images: int, codes: int) -> Iterator[dict[str, Callable[[Any], object]]]:
    """Show progress bars for images and codes; yields the callbacks of an evaluation by name."""
    with ExitStack() as held:
        advance, describe = held.enter_context(counting(console, "Encoding", images))
        decoded: list[Callable[[int], object]] = []

        def on_codes(count: int) -> None:
            if not decoded:  # the second bar replaces the first, as there is one live display at a time
                held.close()
                decoded.append(held.enter_context(counting(console, "Importance samples", codes))[0])
            decoded[0](count)

        yield {
            "on_images": advance,
            "on_metric": lambda name: describe(f"Measuring {name}"),
            "on_codes": on_codes,
        }


def _print(console: Console, evaluation: Evaluation) -> None:
    for sentence in evaluation.findings:
        console.print(f"- {sentence}")
    print_scores(console, evaluation.rows)
    scoring = sum(scored.seconds for scored in evaluation.scores)
    parts = evaluation.seconds | {"metrics": scoring}
    console.print("Took " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items()))

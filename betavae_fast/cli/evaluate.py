"""``betavae-fast evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from betavae_fast.choices import MetricName
from betavae_fast.cli.errors import CommandError, usage_errors
from betavae_fast.cli.runs import (
    RunData,
    TrainedRun,
    distinct_names,
    images_of,
    open_run,
    results_folder,
)

if TYPE_CHECKING:
    from rich.console import Console

    from betavae_fast.data import ImageDataset
    from betavae_fast.evaluation.evaluate import Evaluation
    from betavae_fast.evaluation.html import EvaluatedRun
    from betavae_fast.evaluation.scores import Scored
    from betavae_fast.training.metrics import Metrics
    from betavae_fast.training.run_folder import RunFolder

ALL_METRICS: tuple[MetricName, ...] = get_args(MetricName)
DEFAULT_METRICS = tuple(name for name in ALL_METRICS if name != "dci")


def evaluate(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs.", metavar="RUN...", show_default=False)
    ],
    metrics: Annotated[
        str,
        typer.Option(
            help=f"Metrics: some of {', '.join(ALL_METRICS)}, or all. dci fits 100 trees for each class of each factor, "
            "which takes minutes on dSprites.",
            metavar="NAME,NAME,...|all",
            show_default="all but dci",
        ),
    ] = ",".join(DEFAULT_METRICS),
    seed: Annotated[
        int, typer.Option(help="Seed of the metrics' random images and of the sampled codes.")
    ] = 0,
    jobs: Annotated[int, typer.Option(help="Processes for dci; -1: one per core.")] = -1,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="torch's choice")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
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
    codes as well as mean codes, everything else from mean codes only. If the factors of the data are unknown, only the
    unsupervised scores and the pictures are made. Several runs also get a page that compares them.
    """
    from rich.console import Console

    from betavae_fast.data import absolute
    from betavae_fast.data.identity import describe_difference
    from betavae_fast.evaluation.html import EvaluatedRun
    from betavae_fast.evaluation.report import rehearse_pictures
    from betavae_fast.training.metrics import read_metrics
    from betavae_fast.training.process import set_threads

    console = Console(highlight=False, markup=False, soft_wrap=True)
    loaded: dict[object, ImageDataset] = {}
    done: list[EvaluatedRun] = []
    with usage_errors():
        chosen = _metrics(metrics)
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if jobs == 0:
            raise ValueError("jobs must not be 0")
        set_threads(threads)
        rehearse_pictures()
        opened = []
        names = distinct_names(runs)
        comparison = Path("comparison") if out is None else out
        if len(runs) > 1:
            results_folder(comparison)
        for path, name in zip(runs, names, strict=True):
            run = open_run(path, device)
            if data is not None:
                run = replace(run, config=replace(run.config, data=absolute(data)))
            dataset, history = images_of(run, loaded), read_metrics(run.folder.metrics)
            own = path if out is None else out if len(runs) == 1 else out / name
            opened.append((run, name, dataset, results_folder(own), history))
    for run, name, dataset, results, history in opened:
        console.print(f"Run: {run.folder.path}, after step {run.step}, {dataset!r}")
        if difference := describe_difference(dataset, run.trained_on):
            console.print(f"These are not the training images: {difference}")
        try:
            evaluation = _measure(run, dataset, chosen, seed, jobs, console)
            _write(run, name, dataset, evaluation, results, history, console)
        except (ValueError, OSError) as error:
            raise CommandError(f"{run.folder.path}: {error}") from error
        done.append(EvaluatedRun(name, run.config.describe_objective(), evaluation))
    if len(done) > 1:
        with usage_errors():
            _compare(comparison, done, seed, console)


def _metrics(text: str) -> tuple[MetricName, ...]:
    if text == "all":
        return ALL_METRICS
    told = text.split(",")
    if unknown := [name for name in told if name not in ALL_METRICS]:
        raise ValueError(f"unknown metric {unknown[0]!r}: give all, or some of {', '.join(ALL_METRICS)}")
    return tuple(name for name in ALL_METRICS if name in told)


def _measure(
    run: TrainedRun,
    dataset: ImageDataset,
    metrics: Sequence[MetricName],
    seed: int,
    jobs: int,
    console: Console,
) -> Evaluation:
    from betavae_fast.evaluation.evaluate import evaluate as measure

    with _progress(console, len(dataset)) as (on_images, on_metric, on_score):
        return measure(
            run.model,
            dataset,
            metrics,
            seed=seed,
            jobs=jobs,
            precision=run.precision,
            on_images=on_images,
            on_metric=on_metric,
            on_score=on_score,
        )


def _write(
    run: TrainedRun,
    name: str,
    dataset: ImageDataset,
    evaluation: Evaluation,
    results: RunFolder,
    history: list[Metrics],
    console: Console,
) -> None:
    """Write evaluation.json, the pictures and report.html into ``results``, and print what was found."""
    from betavae_fast.evaluation.evaluate import write_evaluation
    from betavae_fast.evaluation.evaluation_pictures import write_evaluation_pictures
    from betavae_fast.evaluation.html import render_run
    from betavae_fast.evaluation.report import MAX_TRAVERSED, write_pictures
    from betavae_fast.evaluation.summary import choose_images
    from betavae_fast.evaluation.traversal_files import write_moving_traversal
    from betavae_fast.files import atomic_writer

    write_evaluation(results.evaluation, evaluation)
    summary = evaluation.summary
    drawn = write_pictures(results.pictures, run.model, dataset, summary, history)
    start = dataset.gather(choose_images(len(dataset), 1).to(dataset.device))[0]
    moving = results.pictures / "traversal.gif"
    write_moving_traversal(moving, run.model, start, summary.channels[:MAX_TRAVERSED])
    drawn += [moving, *write_evaluation_pictures(results.pictures, evaluation)]
    settings = {
        "data": run.config.data,
        "model": f"{run.config.architecture}, {run.config.latent_dim} channels, {run.config.likelihood}",
        "objective": run.config.describe_objective(),
        "trained": f"{run.step:,} steps of {run.config.batch_size} images, seed {run.config.seed}",
    }
    with atomic_writer(results.report) as file:
        file.write(render_run(name, settings, evaluation, drawn).encode())
    _print(console, evaluation)
    console.print(f"Report: {results.report}")


def _compare(out: Path, runs: Sequence[EvaluatedRun], seed: int, console: Console) -> None:
    """Write the comparison of several runs into ``out``."""
    import numpy as np

    from betavae_fast.evaluation import pictures
    from betavae_fast.evaluation.html import render_comparison
    from betavae_fast.evaluation.metrics import udr_scores
    from betavae_fast.files import atomic_writer, write_json

    evaluations = [run.evaluation for run in runs]
    udr = None
    if len({evaluation.identity for evaluation in evaluations}) == 1:
        codes = [evaluation.encoding.mean_codes for evaluation in evaluations]
        udr = udr_scores(
            codes, [evaluation.kl_per_dim for evaluation in evaluations], np.random.default_rng(seed)
        )
    picture = out / "rate-distortion.png"
    summaries = [evaluation.summary for evaluation in evaluations]
    figure = pictures.rate_distortion(
        [run.name for run in runs],
        [summary.kl for summary in summaries],
        [summary.reconstruction for summary in summaries],
    )
    pictures.save(figure, picture)
    with atomic_writer(out / "report.html") as file:
        file.write(render_comparison(runs, udr, [picture]).encode())
    compared = [
        {
            "run": run.name,
            "objective": run.objective,
            "summary": run.evaluation.summary,
            "scores": run.evaluation.rows,
        }
        for run in runs
    ]
    write_json(out / "comparison.json", {"runs": compared, "udr": udr})
    console.print(f"Comparison: {out / 'report.html'}")


@contextmanager
def _progress(
    console: Console, images: int
) -> Iterator[tuple[Callable[[int], object], Callable[[str], object], Callable[[Scored], object]]]:
    """Show a progress bar and print a line for each score. Yields callbacks for images, metrics and scores."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from betavae_fast.evaluation.scores import score_rows

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("Encoding", total=images)

        def on_score(scored: Scored) -> None:
            values = "  ".join(f"{row.label} {row.value:.3f}" for row in score_rows([scored], 1))
            console.print(f"{values}  ({scored.codes} codes, {scored.seconds:.1f} s)")

        yield (
            lambda count: bar.advance(task, count),
            lambda name: bar.update(task, description=f"Measuring {name}"),
            on_score,
        )


def _print(console: Console, evaluation: Evaluation) -> None:
    for sentence in evaluation.findings:
        console.print(f"- {sentence}")
    scoring = sum(scored.seconds for scored in evaluation.scores)
    parts = evaluation.seconds | {"metrics": scoring}
    console.print("Took " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items()))

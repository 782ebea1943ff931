"""The command line. torch and everything built on it is imported inside the commands, so that ``--help`` is
instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from betavae_fast.choices import (
    ACTIVE_NATS,
    OBJECTIVE_OPTIONS,
    Architecture,
    Estimator,
    Likelihood,
    LrSchedule,
    ObjectiveName,
    Precision,
)
from betavae_fast.training.config import TrainConfig, check_objective_options

if TYPE_CHECKING:
    from rich.console import Console

    from betavae_fast.data import ImageDataset
    from betavae_fast.evaluation.summary import Summary
    from betavae_fast.nn import BetaVAE
    from betavae_fast.training.metrics import Metrics
    from betavae_fast.training.run_folder import RunFolder
    from betavae_fast.training.state import TrainState

INTERRUPTED = 130  # 128 + SIGINT, what shells expect of a program that Ctrl-C ended
DEFAULTS = TrainConfig()
RESUME_OPTIONS = ("steps", "log_every", "checkpoint_every", "threads", "device")

app = typer.Typer(
    name="betavae-fast",
    help="Train β-VAEs, measure what they learn, and look at it.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


class CommandError(Exception):
    """What the user has to know, in one line, and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def _options(names: Iterable[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _objective_option(help_: str, default: str | bool, *objectives: ObjectiveName, **settings: Any) -> Any:
    """An option of ``objectives``; ``default`` is theirs, to be shown."""
    panel = f"Objective {' and '.join(objectives)}"
    return typer.Option(help=help_, show_default=default, rich_help_panel=panel, **settings)


@app.command()
def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="dsprites, mnist, fashion-mnist, or the path of an image folder or .npy/.npz array."
        ),
    ] = DEFAULTS.data,
    architecture: Annotated[Architecture, typer.Option(help="Encoder and decoder.")] = DEFAULTS.architecture,
    latent_dim: Annotated[int, typer.Option(help="Number of latent channels.")] = DEFAULTS.latent_dim,
    likelihood: Annotated[Likelihood, typer.Option(help="Of the pixels.")] = DEFAULTS.likelihood,
    objective: Annotated[
        ObjectiveName, typer.Option(help="What weighs the KL; each has options of its own, below.")
    ] = DEFAULTS.objective,
    batch_size: Annotated[
        str, typer.Option(help="Images a step, or auto: as many as fit in memory.", metavar="INTEGER|auto")
    ] = str(DEFAULTS.batch_size),
    accumulate: Annotated[
        int, typer.Option(help="Equal parts of a batch, taken one after the other to save memory.")
    ] = DEFAULTS.accumulate,
    steps: Annotated[int, typer.Option(help="Training steps.")] = DEFAULTS.steps,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = DEFAULTS.lr,
    lr_schedule: Annotated[
        LrSchedule, typer.Option(help="cosine: to 0 at the last step.")
    ] = DEFAULTS.lr_schedule,
    lr_warmup: Annotated[
        int, typer.Option(help="Steps over which the learning rate grows linearly.")
    ] = DEFAULTS.lr_warmup,
    clip_grad_norm: Annotated[
        float | None, typer.Option(help="Scale the gradient down to this norm.", show_default="never")
    ] = DEFAULTS.clip_grad_norm,
    seed: Annotated[int, typer.Option(help="Of the weights, the data order and the noise.")] = DEFAULTS.seed,
    precision: Annotated[
        Precision, typer.Option(help="Of the networks; auto: bf16 where the device computes in it.")
    ] = DEFAULTS.precision,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="torch's choice")
    ] = DEFAULTS.threads,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = DEFAULTS.device,
    backend: Annotated[
        str, typer.Option(help="Of the fused operations; see the info command.")
    ] = DEFAULTS.backend,
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder, new or empty.", show_default="runs/DATA-ARCHITECTURE"),
    ] = None,
    log_every: Annotated[
        int, typer.Option(help="Steps between two entries in the logs.")
    ] = DEFAULTS.log_every,
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps between checkpoints.")
    ] = DEFAULTS.checkpoint_every,
    resume: Annotated[
        Path | None,
        typer.Option(
            help=f"Go on with the run in this folder; only {_options(RESUME_OPTIONS)} may be given as well.",
            show_default=False,
        ),
    ] = None,
    beta: Annotated[float, _objective_option("Weight of the KL.", True, "beta")] = DEFAULTS.beta,
    beta_warmup: Annotated[
        int, _objective_option("Steps over which β grows linearly from 0.", True, "beta")
    ] = DEFAULTS.beta_warmup,
    beta_cycle: Annotated[
        int, _objective_option("Steps after which the warm-up starts again; 0: never.", True, "beta")
    ] = DEFAULTS.beta_cycle,
    capacity: Annotated[
        float | None, _objective_option("KL to hold at the end, in nats.", "25", "capacity")
    ] = None,
    capacity_steps: Annotated[
        int | None, _objective_option("Steps over which it grows from 0.", "100000", "capacity")
    ] = None,
    capacity_weight: Annotated[
        float | None, _objective_option("Weight γ of the distance |KL − C|.", "1000", "capacity")
    ] = None,
    free_bits: Annotated[
        float | None, _objective_option("Nats per channel that cost nothing.", "0.25", "free-bits")
    ] = None,
    kl_limit: Annotated[
        float | None, _objective_option("Nats that the KL must not exceed; needed.", False, "lagrangian")
    ] = None,
    reconstruction_limit: Annotated[
        float | None,
        _objective_option(
            "Nats an image that the reconstruction loss must not exceed; needed.", False, "geco"
        ),
    ] = None,
    constraint_decay: Annotated[
        float | None, _objective_option("Of the constraint's moving average.", "0.99", "geco")
    ] = None,
    multiplier_lr: Annotated[
        float | None,
        _objective_option(
            "Step size of the multiplier.", "0.01 for lagrangian, 1e-5 for geco", "lagrangian", "geco"
        ),
    ] = None,
    betas: Annotated[
        str | None,
        _objective_option(
            "Weight of each channel's KL; needed.", False, "beta-per-dim", metavar="FLOAT,FLOAT,..."
        ),
    ] = None,
    tc_weight: Annotated[
        float | None,
        _objective_option(
            "Weight of the total correlation.", "6 for btcvae, 35 for factorvae", "btcvae", "factorvae"
        ),
    ] = None,
    mi_weight: Annotated[
        float | None, _objective_option("Weight of the mutual information.", "1", "btcvae")
    ] = None,
    dimension_wise_weight: Annotated[
        float | None, _objective_option("Weight of the dimension-wise KL.", "1", "btcvae")
    ] = None,
    tc_estimator: Annotated[
        Estimator | None,
        _objective_option("Minibatch stratified or weighted sampling.", "mss", "btcvae"),
    ] = None,
    discriminator_lr: Annotated[
        float | None, _objective_option("Learning rate of the discriminator.", "1e-4", "factorvae")
    ] = None,
    off_diagonal_weight: Annotated[
        float | None,
        _objective_option("Weight of the squared covariances.", "10", "dipvae-i", "dipvae-ii"),
    ] = None,
    diagonal_weight: Annotated[
        float | None,
        _objective_option(
            "Weight of the squared variances − 1.",
            "100 for dipvae-i, 10 for dipvae-ii",
            "dipvae-i",
            "dipvae-ii",
        ),
    ] = None,
) -> None:
    """Train a β-VAE. Leaves a folder with config, checkpoint, metrics, TensorBoard logs and pictures.

    Ctrl-C finishes the step, writes the checkpoint and the pictures, and exits with code 130.

    Several processes share every batch: torchrun --nproc-per-node N -m betavae_fast train ... After Ctrl-C they
    go on to the next logged step.
    """
    if resume is not None:
        _resume(resume, {name: value for name, value in _given(context).items() if name != "resume"})
        return
    with usage_errors():
        told = {field.name: context.params[field.name] for field in fields(TrainConfig)}
        told |= {"batch_size": _batch_size(batch_size), "betas": _betas(betas)}
        check_objective_options(objective, _given(context))  # even at its default
        config = TrainConfig(**told)
    _train(config, out)


def _train(config: TrainConfig, out: Path | None) -> None:
    """A new run."""
    from betavae_fast.training.run_folder import create_run_folder, exclusive
    from betavae_fast.training.state import prepare

    with _process_group() as writes, ExitStack() as held:
        with usage_errors():
            _prepare_process(config.threads)
            state = prepare(config, _load(config.data))
            folder = None
            if writes:
                folder = create_run_folder(state.config, out)
                held.enter_context(exclusive(folder))
        _run(state, folder)


def _resume(path: Path, changes: dict[str, Any]) -> None:
    """The run in ``path``, from its checkpoint on."""
    from betavae_fast.training.resume import read_run, resume
    from betavae_fast.training.run_folder import RunFolder, exclusive

    folder = RunFolder(path)
    with _process_group() as writes, ExitStack() as held:
        with usage_errors():
            if refused := changes.keys() - set(RESUME_OPTIONS):
                raise ValueError(
                    f"{_options(sorted(refused))} cannot be given with --resume: the run decides"
                )
            if writes:
                held.enter_context(exclusive(folder))
            config, checkpoint = read_run(folder)
            config = replace(config, **changes)
            _prepare_process(config.threads)
            state = resume(folder if writes else None, config, checkpoint, _load(config.data))
        _run(state, folder if writes else None)


@contextmanager
def _process_group() -> Iterator[bool]:
    """The processes that torchrun started, if it did; yields whether this one writes and prints for all."""
    from betavae_fast.training.distributed import ProcessLostError, process_group, rank

    try:
        with process_group():
            yield rank() == 0
    except ProcessLostError as error:
        raise CommandError(str(error), exit_code=1) from error


def _load(data: str) -> ImageDataset:
    """The data set; of several processes on a machine one loads it first and leaves it in the cache."""
    from betavae_fast.data import load_dataset
    from betavae_fast.training.distributed import local_rank, one_per_machine_first

    with one_per_machine_first():
        return load_dataset(data, progress=local_rank() == 0)


def _batch_size(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"batch_size must be a whole number or auto, got {text!r}") from None


def _betas(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(beta) for beta in text.split(",")]
    except ValueError:
        raise ValueError(f"betas must be numbers with commas between them, got {text!r}") from None


def _prepare_process(threads: int | None) -> None:
    """What is set for the whole process, before it computes anything."""
    import torch

    from betavae_fast.training.memory import keep_freed_memory

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)


def _given(context: typer.Context) -> dict[str, Any]:
    """The options that were written on the command line."""
    return {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }


def _run(state: TrainState, folder: RunFolder | None) -> None:
    """Train, and draw what came of it; without a folder, only take part in the training."""
    from rich.console import Console

    from betavae_fast.training import loop
    from betavae_fast.training.distributed import world_size
    from betavae_fast.training.interrupt import stop_on_signal

    config = state.config
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=folder is None)
    console.print(f"Data: {state.dataset!r}")
    processes = f" in {world_size()} processes" if world_size() > 1 else ""
    console.print(
        f"Model: {config.architecture}, {config.latent_dim} channels, {config.likelihood}, "
        f"{_objective(config)}; {config.steps} steps of {config.batch_size} images{processes} on {state.device} "
        f"in {str(state.precision).removeprefix('torch.')}"
    )
    if folder is not None:
        console.print(f"Run folder: {folder.path}")
    if state.step:
        rest = ": finished, only summary and pictures are made again" if state.finished else ""
        console.print(f"Resumed after step {state.step}{rest}")
    with stop_on_signal() as stop:
        try:
            with _progress(console, state) as (on_step, on_metrics):
                model = loop.train(
                    state, folder, on_step=on_step, on_metrics=on_metrics, should_stop=lambda: stop.requested
                )
        except (loop.DivergedError, OSError) as error:
            raise CommandError(str(error), exit_code=1) from error
        if folder is not None:
            _evaluate(model, state.dataset, folder, console)
    if not state.finished:
        where = "" if folder is None else f"; checkpoint and pictures are in {folder.path}"
        raise CommandError(
            f"interrupted after step {state.step} of {config.steps}{where}", exit_code=INTERRUPTED
        )


def _objective(config: TrainConfig) -> str:
    """The objective and its options that are not left to it."""
    told = {name: getattr(config, name) for name in OBJECTIVE_OPTIONS[config.objective]}
    options = (f"{name} {value}" for name, value in told.items() if value is not None)
    return f"objective {config.objective} ({', '.join(options) or 'defaults'})"


def _evaluate(model: BetaVAE, dataset: ImageDataset, folder: RunFolder, console: Console) -> None:
    """Write and print the run's summary, and draw its pictures."""
    from betavae_fast.evaluation.report import write_pictures
    from betavae_fast.evaluation.summary import summarise, write_summary
    from betavae_fast.training.metrics import read_metrics

    summary = summarise(model, dataset)
    write_summary(folder.summary, summary)
    write_pictures(folder.pictures, model, dataset, summary, read_metrics(folder.metrics))
    _print_summary(console, summary)
    console.print(f"Pictures: {folder.pictures}")


@contextmanager
def _progress(
    console: Console, state: TrainState
) -> Iterator[tuple[Callable[[int], None], Callable[[Metrics], None]]]:
    """The progress bar; yields what to call after each step and with each metrics entry.

    Where there is no terminal to draw a bar on, each entry is a line instead.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    # Where a terminal is narrow the text gives way, over several lines, not the bar.
    text = TextColumn("{task.description}", table_column=Column(ratio=1))
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(), text)
    with Progress(*columns, console=console, expand=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=state.config.steps, completed=state.step)

        def on_metrics(metrics: Metrics) -> None:
            line = (
                f"{metrics.images_per_second:,.0f} images/s  loss {metrics.loss:.1f}  "
                f"reconstruction {metrics.reconstruction:.1f}  KL {metrics.kl:.2f}  "
                f"{metrics.active_channels}/{len(metrics.kl_per_dim)} channels active"
            )
            bar.update(task, description=line)
            if not console.is_terminal:
                console.print(f"step {metrics.step}/{state.config.steps}  {line}")

        yield lambda step: bar.update(task, completed=step), on_metrics


def _print_summary(console: Console, summary: Summary) -> None:
    from rich.table import Table

    table = Table(
        "channel", "KL", "mean dispersion", "variance", "", title="Capacity of each channel, in nats"
    )
    for column in table.columns[:4]:
        column.justify = "right"
    for channel in summary.channels:
        nats = (f"{value:.3f}" for value in (channel.kl, channel.mean_dispersion, channel.variance))
        table.add_row(
            str(channel.index),
            *nats,
            "active" if channel.active else "",
            style=None if channel.active else "dim",
        )
    console.print(table)
    console.print(
        f"{summary.active_channels} of {len(summary.channels)} channels are active "
        f"(KL above {ACTIVE_NATS} nats)"
    )
    console.print(
        f"Reconstruction loss: {summary.reconstruction:.1f} nats an image (z = μ), against "
        f"{summary.mean_image_reconstruction:.1f} for the mean image; over {summary.images:,} images"
    )


@app.command()
def info() -> None:
    """Show which backends there are and, for each missing one, why and what brings it."""
    import platform

    import torch
    from rich.console import Console
    from rich.table import Table

    from betavae_fast.ops.backends import backend_table, cpu_capability

    console = Console(highlight=False, markup=False, soft_wrap=True)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "CPU instruction set": cpu_capability(),
        "CPU threads": torch.get_num_threads(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    for name, value in versions.items():
        console.print(f"{name}: {'none' if value is None else value}")
    table = Table("op", "backend", "available", "why not, and what brings it")
    for row in backend_table():
        table.add_row(row.op, row.backend, "yes" if row.available else "no", row.reason)
    console.print(table)


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def usage_errors() -> Iterator[None]:
    """What a command's set-up raises is about its arguments: one line, exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise CommandError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 2 with one line on stderr for wrong arguments, 130 after Ctrl-C, 1
    otherwise."""
    try:
        sys.exit(app(arguments or sys.argv[1:] or ["--help"], standalone_mode=False) or 0)
    except CommandError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except Exception as error:
        # Wrong options. typer's exceptions have no public base class that spans its versions, but all have
        # this.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), 2)


def _fail(message: str, exit_code: int) -> NoReturn:
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1  # of torchrun's processes
    rank = f"process {os.environ['RANK']}: " if several else ""
    print(f"betavae-fast: {rank}{' '.join(message.split())}", file=sys.stderr)
    sys.exit(exit_code)

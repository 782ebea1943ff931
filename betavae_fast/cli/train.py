"""``betavae-fast train``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from betavae_fast.choices import (
    Architecture,
    Estimator,
    Likelihood,
    LrSchedule,
    ObjectiveName,
    Precision,
)
from betavae_fast.cli.errors import INTERRUPTED, CommandError, usage_errors
from betavae_fast.cli.options import set_threads
from betavae_fast.cli.output import print_summary, progress
from betavae_fast.training.config import TrainConfig, check_objective_options, describe_objective

if TYPE_CHECKING:
    from rich.console import Console

    from betavae_fast.data import ImageDataset
    from betavae_fast.nn import BetaVAE
    from betavae_fast.training.run_folder import RunFolder
    from betavae_fast.training.state import TrainState

DEFAULTS = TrainConfig()
RESUME_OPTIONS = ("steps", "lr", "log_every", "checkpoint_every", "threads", "device", "data", "out")


def _options(names: Iterable[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _objective_option(help_: str, default: str | bool, *objectives: ObjectiveName, **settings: Any) -> Any:
    """A command-line option of ``objectives``; ``default`` is their default, for the help text."""
    panel = f"Objective {' and '.join(objectives)}"
    return typer.Option(help=help_, show_default=default, rich_help_panel=panel, **settings)


def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="dsprites, mnist, fashion-mnist, or the path of an image folder or .npy/.npz array."
        ),
    ] = DEFAULTS.data,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images in pixels: a folder's are resized, an idx file's get a border.",
            show_default="64 for a folder, 32 for MNIST",
        ),
    ] = DEFAULTS.image_size,
    channels: Annotated[
        int | None,
        typer.Option(
            help="Channels of a folder's images: 1 for grayscale, 3 for RGB.",
            show_default="RGB if one is coloured",
        ),
    ] = None,
    architecture: Annotated[Architecture, typer.Option(help="Encoder and decoder.")] = DEFAULTS.architecture,
    latent_dim: Annotated[int, typer.Option(help="Number of latent channels.")] = DEFAULTS.latent_dim,
    likelihood: Annotated[Likelihood, typer.Option(help="Likelihood of the pixels.")] = DEFAULTS.likelihood,
    objective: Annotated[
        ObjectiveName, typer.Option(help="Training objective; each has options of its own, below.")
    ] = DEFAULTS.objective,
    batch_size: Annotated[
        str, typer.Option(help="Images per step, or auto: as many as fit in memory.", metavar="INTEGER|auto")
    ] = str(DEFAULTS.batch_size),
    accumulate: Annotated[
        int, typer.Option(help="Equal parts of a batch, computed one after the other to save memory.")
    ] = DEFAULTS.accumulate,
    steps: Annotated[int, typer.Option(help="Training steps.")] = DEFAULTS.steps,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = DEFAULTS.lr,
    lr_schedule: Annotated[
        LrSchedule, typer.Option(help="Learning rate over the run; cosine: falls to 0 at the last step.")
    ] = DEFAULTS.lr_schedule,
    lr_warmup: Annotated[
        int, typer.Option(help="Steps over which the learning rate grows linearly.")
    ] = DEFAULTS.lr_warmup,
    clip_grad_norm: Annotated[
        float | None,
        typer.Option(help="Scale a gradient with a larger norm down to this one.", show_default="never"),
    ] = DEFAULTS.clip_grad_norm,
    seed: Annotated[
        int, typer.Option(help="Seed of the weights, the data order and the noise.")
    ] = DEFAULTS.seed,
    precision: Annotated[
        Precision,
        typer.Option(help="Precision of the networks; auto: bf16 if the device has matrix units for it."),
    ] = DEFAULTS.precision,
    deterministic: Annotated[
        bool,
        typer.Option(
            help="Use convolutions on a GPU that give the same bits in every run, not the fastest ones."
        ),
    ] = DEFAULTS.deterministic,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="torch's choice")
    ] = DEFAULTS.threads,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = DEFAULTS.device,
    backend: Annotated[
        str, typer.Option(help="Backend of the fused operations; see the info command.")
    ] = DEFAULTS.backend,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder, new or empty. With --resume: copy the run there and continue the copy.",
            show_default="runs/DATA-ARCHITECTURE",
        ),
    ] = None,
    log_every: Annotated[int, typer.Option(help="Steps between two log entries.")] = DEFAULTS.log_every,
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps between two checkpoints.")
    ] = DEFAULTS.checkpoint_every,
    resume: Annotated[
        Path | None,
        typer.Option(
            help=f"Continue the run in this folder; only {_options(RESUME_OPTIONS)} may be given as well.",
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
        int | None, _objective_option("Steps over which the capacity grows from 0.", "100000", "capacity")
    ] = None,
    capacity_weight: Annotated[
        float | None, _objective_option("Weight γ of the distance |KL − C|.", "1000", "capacity")
    ] = None,
    free_bits: Annotated[
        float | None, _objective_option("Nats per channel that cost nothing.", "0.25", "free-bits")
    ] = None,
    kl_limit: Annotated[
        float | None, _objective_option("Upper limit of the KL, in nats; required.", False, "lagrangian")
    ] = None,
    reconstruction_limit: Annotated[
        float | None,
        _objective_option(
            "Upper limit of the reconstruction loss, in nats per image; required.", False, "geco"
        ),
    ] = None,
    constraint_decay: Annotated[
        float | None, _objective_option("Decay of the constraint's moving average.", "0.99", "geco")
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
            "Weight of each channel's KL; required.", False, "beta-per-dim", metavar="FLOAT,FLOAT,..."
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
        _objective_option("Minibatch weighted (mws) or stratified sampling.", "mws", "btcvae"),
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
            "Weight of the squared differences of the variances from 1.",
            "100 for dipvae-i, 10 for dipvae-ii",
            "dipvae-i",
            "dipvae-ii",
        ),
    ] = None,
) -> None:
    """Train a β-VAE. Writes a folder with its configuration, checkpoint, metrics, TensorBoard logs and pictures.

    Ctrl-C finishes the step, writes the checkpoint and the pictures, and exits with code 130.

    To share every batch among several processes: torchrun --nproc-per-node N -m betavae_fast train ... After Ctrl-C
    they continue to the next logged step.
    """
    if resume is not None:
        _resume(resume, {name: value for name, value in _given(context).items() if name != "resume"})
        return
    with usage_errors():
        told = {field.name: context.params[field.name] for field in fields(TrainConfig)}
        told |= {"data": _absolute(data), "batch_size": _batch_size(batch_size), "betas": _betas(betas)}
        check_objective_options(objective, _given(context))  # options set to their defaults, too
        config = TrainConfig(**told)
    _train(config, out)


def _train(config: TrainConfig, out: Path | None) -> None:
    """Start a new run."""
    from betavae_fast.training.run_folder import create_run_folder, exclusive
    from betavae_fast.training.state import prepare

    with _process_group() as writes, ExitStack() as held:
        with usage_errors():
            _prepare_process(config.threads)
            state = prepare(config, _load(config))
            folder = None
            if writes:
                folder = create_run_folder(state.config, out, state.dataset.identity)
                held.enter_context(exclusive(folder))
        _run(state, folder)


def _resume(path: Path, changes: dict[str, Any]) -> None:
    """Continue the run in ``path`` from its checkpoint, with ``changes`` to its configuration."""
    from betavae_fast.training.resume import read_run, resume
    from betavae_fast.training.run_folder import RunFolder, copy_run, exclusive

    folder = RunFolder(path)
    with _process_group() as writes, ExitStack() as held:
        with usage_errors():
            if refused := changes.keys() - set(RESUME_OPTIONS):
                raise ValueError(
                    f"{_options(sorted(refused))} cannot be given with --resume: the run keeps its own"
                )
            config, checkpoint = read_run(folder)
            if (out := changes.pop("out", None)) is not None and writes:
                folder = copy_run(folder, out)
            if writes:
                held.enter_context(exclusive(folder))
            if "data" in changes:
                changes["data"] = _absolute(changes["data"])
            config = replace(config, **changes)
            _prepare_process(config.threads)
            state = resume(folder if writes else None, config, checkpoint, _load(config))
        _run(state, folder if writes else None)


@contextmanager
def _process_group() -> Iterator[bool]:
    """Connect the processes that torchrun started, if any. Yields True in the process that writes and prints for all."""
    from betavae_fast.training.distributed import ProcessLostError, process_group, rank
    from betavae_fast.training.launch import launched_processes

    with usage_errors():
        launched_processes()
    try:
        with process_group():
            yield rank() == 0
    except ProcessLostError as error:
        raise CommandError(str(error), exit_code=1) from error


def _absolute(data: str) -> str:
    """The name of the data that a run records, valid in every working directory."""
    from betavae_fast.data import absolute

    return absolute(data)


def _load(config: TrainConfig) -> ImageDataset:
    """Load the data set. Of several processes on a machine, one loads it first and leaves it in the cache."""
    from betavae_fast.training.distributed import one_per_machine_first
    from betavae_fast.training.launch import local_rank
    from betavae_fast.training.trained_run import load_images

    with one_per_machine_first():
        return load_images(config, progress=local_rank() == 0)


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
    """Configure the memory and the threads of the process, before it computes anything."""
    from betavae_fast.training.memory import keep_freed_memory

    keep_freed_memory()
    set_threads(threads)


def _given(context: typer.Context) -> dict[str, Any]:
    """The options that were written on the command line."""
    return {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }


def _run(state: TrainState, folder: RunFolder | None) -> None:
    """Train, then write the summary and the pictures; without a folder, only take part in the training."""
    from rich.console import Console

    from betavae_fast.evaluation.report import rehearse_pictures
    from betavae_fast.training import loop
    from betavae_fast.training.distributed import world_size
    from betavae_fast.training.interrupt import stop_on_signal

    config = state.config
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=folder is None)
    console.print(f"Data: {state.dataset!r}")
    processes = f" in {world_size()} processes" if world_size() > 1 else ""
    console.print(
        f"Model: {config.architecture}, {config.latent_dim} channels, {config.likelihood}, "
        f"{describe_objective(config)}; {config.steps} steps of {config.batch_size} images{processes} on {state.device} "
        f"in {str(state.precision).removeprefix('torch.')}"
    )
    if folder is not None:
        console.print(f"Run folder: {folder.path}")
    if state.step:
        rest = ": finished, only summary and pictures are made again" if state.finished else ""
        console.print(f"Resumed after step {state.step}{rest}")
    if folder is not None:
        with usage_errors():
            rehearse_pictures()
    with stop_on_signal() as stop:
        try:
            with progress(console, state) as (on_step, on_metrics):
                model = loop.train(
                    state, folder, on_step=on_step, on_metrics=on_metrics, should_stop=lambda: stop.requested
                )
        except loop.DivergedError as error:
            raise CommandError(
                f"{error}; {_remains(folder, '--lr', f'{config.lr / 10:g}')}", exit_code=1
            ) from error
        except OSError as error:
            raise CommandError(f"{error}; {_remains(folder)}", exit_code=1) from error
        if folder is not None:
            try:
                _evaluate(model, state.dataset, folder, console)
            except (OSError, ValueError) as error:
                raise CommandError(
                    f"the summary and the pictures could not be made: {error}; {_remains(folder)}",
                    exit_code=1,
                ) from error
    if not state.finished:
        where = "" if folder is None else f"; checkpoint and pictures are in {folder.path}"
        raise CommandError(
            f"interrupted after step {state.step} of {config.steps}{where}", exit_code=INTERRUPTED
        )


def _remains(folder: RunFolder | None, *options: str) -> str:
    """A clause for an error message: the checkpoint that remains, and the command that continues from it."""
    from betavae_fast.training.checkpoint import has_checkpoint, load_checkpoint

    if folder is None or not has_checkpoint(folder.checkpoint):
        return "no checkpoint was written yet"
    step = load_checkpoint(folder.checkpoint).step
    command = shlex.join(["betavae-fast", "train", "--resume", str(folder.path), *options])
    return f"the checkpoint of step {step} remains; go on with: {command}"


def _evaluate(model: BetaVAE, dataset: ImageDataset, folder: RunFolder, console: Console) -> None:
    """Write and print the run's summary, and draw its pictures."""
    from betavae_fast.evaluation.report import write_run_pictures
    from betavae_fast.evaluation.summary import summarise, write_summary
    from betavae_fast.training.metrics import read_metrics

    summary = summarise(model, dataset)
    write_summary(folder.summary, summary)
    write_run_pictures(folder.pictures, model, dataset, summary, read_metrics(folder.metrics))
    print_summary(console, summary)
    console.print(f"Pictures: {folder.pictures}")

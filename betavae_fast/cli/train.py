"""``betavae-fast train``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import MISSING
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from betavae_fast.cli.errors import INTERRUPTED, CommandError, usage_errors
from betavae_fast.cli.output import images_in_words, print_advice, print_summary, progress
from betavae_fast.objectives import options
from betavae_fast.objectives.options import OBJECTIVES, BetaOptions
from betavae_fast.settings import Declared, declared, flag
from betavae_fast.training import recipes
from betavae_fast.training.config import RESUMABLE, TrainConfig

if TYPE_CHECKING:
    from rich.console import Console

    from betavae_fast.training.resume import Unfinished
    from betavae_fast.training.run_folder import RunFolder
    from betavae_fast.training.state import TrainState
    from betavae_fast.training.trained_run import TrainedRun

_SETTINGS = {found.name: found for found in declared(TrainConfig)}
_OBJECTIVE_SETTINGS = options.by_option()
_PARSERS = {
    found.option: found.setting.parse
    for found in (
        *_SETTINGS.values(),
        *(one for by_objective in _OBJECTIVE_SETTINGS.values() for one in by_objective.values()),
    )
    if found.setting.parse is not None
}


def train(context: typer.Context, **values: Any) -> None:
    """Train a β-VAE. Writes a folder with its configuration, checkpoint, metrics, TensorBoard logs and pictures.

    Ctrl-C finishes the step, writes the checkpoint and the pictures, and exits with code 130.

    To share every batch among several processes: torchrun --nproc-per-node N -m betavae_fast train ... After Ctrl-C
    they continue to the next logged step.
    """
    from betavae_fast.processes import ProcessLostError
    from betavae_fast.training.resume import unfinished_alike
    from betavae_fast.training.run import new_run, resumed_run
    from betavae_fast.training.run_folder import runs_before

    out, resume = values.pop("out"), values.pop("resume")
    try:
        with ExitStack() as held:
            with usage_errors():
                given = _given(context, values, resume=resume is not None)
                run = new_run(_config(given), out) if resume is None else resumed_run(resume, given, out)
                state, folder = held.enter_context(run)
                alike = None
                if folder is not None and resume is None and out is None:
                    alike = unfinished_alike(runs_before(folder, state.config), state.config)
            _run(state, folder, recipes.describe(given), alike)
    except ProcessLostError as error:
        raise CommandError(str(error), exit_code=1) from error


def _given(context: typer.Context, values: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """The settings that were written on the command line; the others keep the defaults of their declarations.

    Raises: ValueError for a text from which no value can be made, or a setting that a resumed run keeps.
    """
    given = {
        name: value
        for name, value in values.items()
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }
    if resume and (kept := sorted(given.keys() - set(RESUMABLE))):
        raise ValueError(f"{_dashed(kept)} cannot be given with --resume: the run keeps its own")
    return {name: _PARSERS[name](name, value) if name in _PARSERS else value for name, value in given.items()}


def _dashed(names: Iterable[str]) -> str:
    return ", ".join(map(flag, names))


def _config(given: Mapping[str, Any]) -> TrainConfig:
    given = recipes.applied(given)
    own = {name: value for name, value in given.items() if name in _OBJECTIVE_SETTINGS}
    others = {name: value for name, value in given.items() if name in _SETTINGS}
    objective = options.make_options(given.get("objective", BetaOptions.objective), own)
    return TrainConfig(objective=objective, **others)


def _parameters() -> Iterator[Parameter]:
    """The parameters of ``train``: a recipe, the settings of a run, its folder, and the options of all objectives."""
    yield Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    yield Parameter(
        "recipe",
        Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            Literal[tuple(recipes.RECIPES)] | None,
            typer.Option(
                help="Take the settings of this recipe; options given as well replace its values.",
                show_default="none",
            ),
        ],
    )
    for name, found in _SETTINGS.items():
        yield _parameter(found, found.default, show_default=found.setting.default_in_words or True)
        if name == "likelihood":
            yield Parameter(
                "objective",
                Parameter.KEYWORD_ONLY,
                default=BetaOptions.objective,
                annotation=Annotated[
                    Literal[tuple(OBJECTIVES)],
                    typer.Option(help="Training objective; each has options of its own, below."),
                ],
            )
    folders: dict[str, dict[str, Any]] = {
        "out": {
            "help": "The run's folder, new or empty. With --resume: copy the run there and continue the copy.",
            "show_default": "runs/DATA-ARCHITECTURE",
        },
        "resume": {
            "help": f"Continue the run in this folder; only {_dashed((*RESUMABLE, 'out'))} may be given as well.",
            "show_default": False,
        },
    }
    for name, described in folders.items():
        annotation = Annotated[Path | None, typer.Option(**described)]
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    for by_objective in _OBJECTIVE_SETTINGS.values():
        yield _objective_parameter(by_objective)


def _objective_parameter(by_objective: Mapping[str, Declared]) -> Parameter:
    """The parameter for an option of one or several objectives. Its value is None unless the option is given."""
    found = next(iter(by_objective.values()))
    defaults = {
        objective: declared.setting.default_in_words or str(declared.default)
        for objective, declared in by_objective.items()
    }
    shown: str | bool = next(iter(defaults.values()))
    if len(set(defaults.values())) > 1:
        shown = ", ".join(f"{default} for {objective}" for objective, default in defaults.items())
    help_ = found.setting.help
    if found.default is MISSING:
        shown, help_ = False, help_.removesuffix(".") + "; required."
    panel = f"Objective {' and '.join(by_objective)}"
    return _parameter(found, None, show_default=shown, help_=help_, rich_help_panel=panel)


def _parameter(found: Declared, default: Any, *, help_: str | None = None, **described: Any) -> Parameter:
    """The parameter for a setting, as typer reads it."""
    kind = found.type if found.setting.parse is None else str
    option = typer.Option(help=help_ or found.setting.help, metavar=found.setting.metavar, **described)
    return Parameter(
        found.option,
        Parameter.KEYWORD_ONLY,
        default=default if found.setting.parse is None or default is None else str(default),
        annotation=Annotated[kind | None if default is None else kind, option],
    )


_SIGNATURE = Signature(list(_parameters()))
train.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
train.__annotations__ = {name: found.annotation for name, found in _SIGNATURE.parameters.items()}


def _run(state: TrainState, folder: RunFolder | None, recipe: str | None, alike: Unfinished | None) -> None:
    """Train, then write the summary and the pictures; without a folder, only take part in the training.

    Args:
        recipe: the recipe in words.
        alike: a run that could be continued instead.
    """
    from rich.console import Console

    from betavae_fast.evaluation.report import rehearse_pictures
    from betavae_fast.processes import world_size
    from betavae_fast.training import loop
    from betavae_fast.training.interrupt import stop_on_signal
    from betavae_fast.training.trained_run import TrainedRun
    from betavae_fast.training.unfinished import warn_of_unfinished
    from betavae_fast.training.validation import VALIDATE_EVERY, VALIDATION_IMAGES

    config = state.config
    if folder is not None and not state.finished:
        warn_of_unfinished([config])
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=folder is None)
    console.print(f"Data: {state.dataset!r}")
    if recipe is not None:
        console.print(f"Recipe: {recipe}")
    processes = f" in {world_size()} processes" if world_size() > 1 else ""
    console.print(
        f"Model: {config.architecture}, {config.latent_dim} channels, {config.describe_likelihood()}, "
        f"{config.describe_objective()}; {config.steps} steps of {config.batch_size} images{processes} on {state.device} "
        f"in {str(state.precision).removeprefix('torch.')}"
    )
    if state.why_precision:
        console.print(f"Precision: {config.precision}, {state.why_precision}")
    if state.held_out is not None:
        patience = "" if config.patience is None else f"; patience of {config.patience} validations"
        console.print(
            f"Validation: {min(len(state.held_out.indices), VALIDATION_IMAGES):,} of {len(state.held_out.indices):,} "
            f"held-out images, every {config.validation_every or VALIDATE_EVERY} steps{patience}"
        )
    if folder is not None:
        console.print(f"Run folder: {folder.path}")
    if alike is not None:
        command = _resuming(alike.folder)
        console.print(
            f"{alike.folder.path} has the same settings and is at step {alike.step}; to go on with it: {command}"
        )
    if state.step:
        rest = ": finished, only summary and pictures are made again" if state.finished else ""
        console.print(f"Resumed after step {state.step}{rest}")
    if folder is not None:
        with usage_errors():
            rehearse_pictures()
    with stop_on_signal() as stop:
        try:
            with progress(console, state) as (on_step, on_entry):
                loop.train(
                    state, folder, on_step=on_step, on_entry=on_entry, should_stop=lambda: stop.requested
                )
        except loop.DivergedError as error:
            raise CommandError(
                f"{error}; {_remains(folder, '--lr', f'{config.lr / 10:g}')}", exit_code=1
            ) from error
        except OSError as error:
            raise CommandError(f"{error}; {_remains(folder)}", exit_code=1) from error
        if state.best is not None and state.finished:
            early = f"out of patience after step {state.step}; " if state.step < config.steps else ""
            console.print(
                f"Validation: {early}best ELBO of the held-out images {-state.best.loss:.1f} after step {state.best.step}"
            )
        if folder is not None:
            try:
                _summarise(TrainedRun.of(state, folder), console)
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
    return f"the checkpoint of step {step} remains; go on with: {_resuming(folder, *options)}"


def _resuming(folder: RunFolder, *options: str) -> str:
    """The command that continues the run in ``folder``."""
    return shlex.join(["betavae-fast", "train", "--resume", str(folder.path), *options])


def _summarise(run: TrainedRun, console: Console) -> None:
    """Write the run's summary, draw its pictures, and say what was learned and what to type next."""
    from betavae_fast.evaluation import report
    from betavae_fast.evaluation.advice import advice
    from betavae_fast.evaluation.glance import GLANCE_IMAGES, glance

    summary = report.write_summary(run)
    print_summary(console, summary)
    console.print(f"Pictures: {run.folder.pictures}")
    if learned := glance(run, summary):
        count = min(GLANCE_IMAGES, len(run.images()))
        console.print(f"What was learned, by the codes of {images_in_words(count)}:")
        for sentence in learned.sentences:
            console.print(f"- {sentence}")
    print_advice(console, advice(summary, run.history, run.config))
    console.print("What to type next:")
    for words, what in _next(run):
        console.print(f"  {shlex.join(['betavae-fast', *words])}  # {what}")


def _next(run: TrainedRun) -> Iterator[tuple[list[str], str]]:
    """The three commands that one would type after this run, and what each is for."""
    folder = str(run.folder.path)
    yield ["evaluate", folder], "what the channels mean, with scores and sliders, in one page"
    yield ["traverse", folder], "each channel moved, as an animation"
    if run.step < run.config.steps:
        yield ["train", "--resume", folder], "train on"
    else:
        yield ["encode", folder, "--out", "codes.npz"], "the codes of all images"

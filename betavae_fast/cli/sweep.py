"""``betavae-fast sweep``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_origin

import typer

from betavae_fast.cli.errors import INTERRUPTED, CommandError, usage_errors
from betavae_fast.cli.options import METRICS, Metrics, chosen_metrics
from betavae_fast.objectives import options
from betavae_fast.objectives.options import OBJECTIVES
from betavae_fast.settings import Declared, at_least, choices
from betavae_fast.sweep.grid import SEED, SweptRun, grid, settings_by_option
from betavae_fast.training.recipes import RECIPES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from betavae_fast.sweep.forecast import Timing
    from betavae_fast.sweep.local import SharedImages
    from betavae_fast.sweep.tasks import Ended, Progress
    from betavae_fast.training.config import TrainConfig

_SETTINGS = settings_by_option()
_SWITCHES = {"true": True, "false": False}


def sweep(context: typer.Context, **values: Any) -> None:
    """Train and evaluate many models: every combination of settings, several at a time. Writes a folder for each run, a
    table of all, and a report that compares them.

    An option may have several values, with commas between them: --beta 1,4 --seeds 3 trains six models. The same command
    goes on where it was interrupted, and does not train again what is finished. Ctrl-C finishes the steps of the runs
    that are going on, saves them, and exits with code 130. With --ray, the runs train on the nodes of a Ray cluster, and
    those of a lost node go on elsewhere.
    """
    with ExitStack() as held:
        _sweep(values, held)


def _sweep(values: Mapping[str, Any], held: ExitStack) -> None:
    """Do what ``sweep`` says. A connection to a cluster ends with ``held``."""
    from rich.console import Console

    from betavae_fast.evaluation.report import rehearse_pictures
    from betavae_fast.sweep import report
    from betavae_fast.sweep.folder import SweepFolder, standing
    from betavae_fast.sweep.forecast import forecast, measure
    from betavae_fast.sweep.local import SharedImages
    from betavae_fast.sweep.tasks import Task
    from betavae_fast.training.interrupt import stop_on_signal
    from betavae_fast.training.run_folder import exclusive
    from betavae_fast.training.unfinished import warn_of_unfinished

    console = Console(highlight=False, markup=False, soft_wrap=True)
    with usage_errors():
        entries = _entries(values)
        metrics = chosen_metrics(values["metrics"])
        engine = _engine(values, entries, held)
        runs = grid(entries)
        folder = SweepFolder(values["out"] or Path("sweeps") / _default_name(runs))
        folder.path.mkdir(parents=True, exist_ok=True)
        held.enter_context(exclusive(folder.path))
        standings = {run.name: standing(folder.run(run), run, metrics) for run in runs}
        left = [run for run in runs if not standings[run.name].finished]
        rehearse_pictures()
    console.print(
        f"Sweep: {len(runs)} runs, {len(runs) - len(left)} finished before; "
        f"{engine.places * engine.side_by_side} at a time on {engine.where}"
    )
    console.print(f"Sweep folder: {folder.path}")
    warn_of_unfinished(run.config for run in left)
    with usage_errors():
        images = SharedImages(run.config for run in left)
    with console.status("Timing a few steps"):
        left, timings = measure(left, standings, lambda config: engine.time(config, images))
    for precision, why, *_ in dict.fromkeys(timing for timing in timings.values() if timing.why_precision):
        console.print(f"Precision: {precision}, {why}")
    # Runs were timed alone on their devices.
    seconds = forecast(left, standings, timings, engine.places)
    if left and seconds is not None:
        at_most = "at most " if engine.side_by_side > 1 else ""
        console.print(f"Forecast: {at_most}{_duration(seconds)}, scores and pictures not counted")
    watcher = _Watcher(console, left)
    tasks = [Task(run, folder.run(run).path, metrics) for run in left]
    with stop_on_signal() as stop, watcher.live(), usage_errors():
        engine.train(tasks, images, watcher, should_stop=lambda: stop.requested)
    if seconds is not None and len(watcher.finished) == len(left) > 0:
        console.print(f"Took {_duration(watcher.seconds)}; {_duration(seconds)} were foretold")
    missing = [run.name for run in left if run.name not in watcher.finished]
    if finished := [run for run in runs if run.name not in missing]:
        with usage_errors():
            console.print(f"Report: {report.write(folder, finished, missing)}")
    if watcher.unfinished:
        raise CommandError(
            f"interrupted, {watcher.unfinished} runs are not finished; the same command goes on",
            exit_code=INTERRUPTED,
        )
    if watcher.failed:
        raise CommandError(f"{len(watcher.failed)} of {len(runs)} runs failed, as said above", exit_code=1)


class _Engine(NamedTuple):
    """The processes that train the runs of a sweep.

    Attributes:
        time: times a few steps of a run, as ``time_locally`` does.
        train: trains and evaluates runs, as ``train_locally`` does.
        places: the number of processes that train at the same time.
        where: the devices in words.
        side_by_side: the number of runs that a process trains at most.
    """

    time: Callable[[TrainConfig, SharedImages], Timing | None]
    train: Callable[..., None]
    places: int
    where: str
    side_by_side: int = 1


def _engine(values: Mapping[str, Any], entries: dict[str, Any], held: ExitStack) -> _Engine:
    """The engine that the options of the command ask for.

    On a CPU, runs have one thread unless ``entries`` say otherwise.

    Args:
        entries: the settings of the sweep, without ``device`` afterwards.
        held: keeps the connection to a cluster.
    Raises: ValueError for options that no engine can follow; the errors of the connection.
    """
    jobs, device, side_by_side = values["jobs"], entries.pop("device", "auto"), values["side_by_side"]
    if jobs is not None:
        at_least(1)("jobs", jobs)
    if values["ray"] is not None:
        from betavae_fast.sweep import ray_cluster

        if side_by_side is not None:
            raise ValueError("side_by_side is for the GPUs of this machine; leave it out with --ray")
        store = held.enter_context(ray_cluster.connected(values["ray"]))
        device = ray_cluster.choose_device(device)
        threads = _threads(entries, device)
        room = ray_cluster.room(device, threads or 1)
        return _Engine(
            partial(ray_cluster.time_with_ray, store=store, device=device),
            partial(ray_cluster.train_with_ray, store=store, device=device, jobs=jobs),
            min(jobs or room, room),
            f"a Ray cluster, {device}",
        )
    from betavae_fast.sweep.local import check_side_by_side, places, time_locally, train_locally

    devices = places(device, jobs)
    _threads(entries, devices[0])
    side_by_side = 1 if side_by_side is None else side_by_side
    check_side_by_side(side_by_side, devices)
    return _Engine(
        partial(time_locally, devices=devices),
        partial(train_locally, devices=devices, side_by_side=side_by_side),
        len(devices),
        ", ".join(dict.fromkeys(devices)),
        side_by_side,
    )


def _threads(entries: dict[str, Any], device: str) -> int | None:
    """The threads of each run in ``entries``, which get one on a CPU if they name none."""
    if device == "cpu":
        entries.setdefault("threads", 1)
    return entries.get("threads")


def _default_name(runs: Sequence[SweptRun]) -> str:
    return "-".join(
        "+".join(dict.fromkeys(part))
        for part in zip(*((Path(r.config.data).stem, r.config.architecture) for r in runs), strict=True)
    )


def _entries(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the sweep's file, and over them those of the command line.

    Raises: ValueError for a text from which no value can be made, for --seed beside --seeds, or for a file that is not
        TOML; OSError if it cannot be read.
    """
    entries = {} if values["file"] is None else _read(values["file"])
    if (
        values.get("objective") is not None
    ):  # the file may have options of objectives that are not trained now
        chosen = set(values["objective"].split(","))
        entries = {
            name: value
            for name, value in entries.items()
            if name not in options.by_option() or options.by_option()[name].keys() & chosen
        }
    for name, text in values.items():
        if text is not None and (name in ("recipe", "objective") or name in _SETTINGS):
            entries[name] = (
                _value(name, text) if _is_list(name) else [_value(name, word) for word in text.split(",")]
            )
    if values["seeds"] is not None:
        if values[SEED] is not None:
            raise ValueError("give --seeds, the number of seeds, or --seed, their values")
        if values["seeds"] < 1:
            raise ValueError(f"seeds must be at least 1, got {values['seeds']}")
        entries[SEED] = list(range(values["seeds"]))
    for name in ("recipe", "device", "threads"):
        if isinstance(entries.get(name), list):
            if len(entries[name]) != 1:
                raise ValueError(f"{name} has one value for the whole sweep, got {len(entries[name])}")
            (entries[name],) = entries[name]
    return entries


def _read(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, by their names on the command line; a list is an axis."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from error
    entries = {key.replace("-", "_"): value for key, value in found.items()}
    return {name: _read_values(name, value) for name, value in entries.items()}


def _read_values(name: str, value: Any) -> Any:
    """The value of a setting in a file, or a list of values, each read as if it stood on the command line."""
    is_axis = isinstance(value, list) and (not _is_list(name) or any(isinstance(one, list) for one in value))
    return [_value(name, _text(one)) for one in value] if is_axis else _value(name, _text(value))


def _text(value: Any) -> str:
    """A value of a file as one writes it on the command line."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_list(name: str) -> bool:
    """Tell whether one value of the setting is a list."""
    return name in _SETTINGS and get_origin(_SETTINGS[name].type) is list


def _value(name: str, text: str) -> Any:
    """The value that ``text`` names; a text where ``name`` is "recipe", "objective", or no setting.

    Raises: ValueError if it names none.
    """
    if name not in _SETTINGS:
        return text
    found = _SETTINGS[name]
    if found.setting.parse is not None:
        return found.setting.parse(name, text)
    kinds = (found.type, *get_args(found.type))
    kind = next((kind for kind in (bool, int, float) if kind in kinds), str)
    if kind is bool:
        if text not in _SWITCHES:
            raise ValueError(f"{name} must be true or false, got {text!r}")
        return _SWITCHES[text]
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError:
        raise ValueError(
            f"{name} must be {'a whole number' if kind is int else 'a number'}, got {text!r}"
        ) from None


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _Watcher:
    """Shows a table of the runs that are going on; if the output is not a terminal, a line for each that ends."""

    def __init__(self, console: Console, runs: Sequence[SweptRun]) -> None:
        self._console = console
        self._count = len(runs)
        self._going: dict[str, tuple[SweptRun, Progress]] = {}
        self._done = 0  # steps
        self._total = sum(run.config.steps for run in runs)
        self._begun = time.monotonic()
        self.finished: list[str] = []
        self.failed: list[str] = []

    @property
    def seconds(self) -> float:
        """The time since the first run began."""
        return time.monotonic() - self._begun

    @property
    def unfinished(self) -> int:
        """The number of runs that have not ended by themselves."""
        return self._count - len(self.finished) - len(self.failed)

    def live(self) -> AbstractContextManager[Any]:
        from rich.live import Live

        if not self._console.is_terminal:
            return nullcontext()
        return Live(console=self._console, get_renderable=self._table, refresh_per_second=2, transient=True)

    def on_progress(self, run: SweptRun, progress: Progress) -> None:
        if run.name not in self._going:
            self._total -= progress.step  # of earlier calls
        else:
            self._done += progress.step - self._going[run.name][1].step
        self._going[run.name] = (run, progress)

    def on_end(self, run: SweptRun, ended: Ended) -> None:
        _, progress = self._going.pop(run.name, (run, None))
        if ended.how == "stopped":
            return
        failed = ended.how != "finished"
        if failed:
            self._total -= run.config.steps - (0 if progress is None else progress.step)
        (self.failed if failed else self.finished).append(run.name)
        said = f"{ended.how}: {ended.error}" if failed else "finished"
        if progress is not None and progress.entry is not None and not failed:
            entry = progress.entry
            said += (
                f"  loss {entry.loss:.1f}  reconstruction {entry.reconstruction:.1f}  KL {entry.kl:.2f}  "
                f"{entry.active_channels}/{len(entry.kl_per_dim)} channels active"
            )
        done = len(self.finished) + len(self.failed)
        self._console.print(f"{done}/{self._count}  {run.name}  {said}{self._rest()}")

    def _rest(self) -> str:
        """The time that the rest will take if it goes on like this."""
        if not self._done or not self.unfinished:
            return ""
        return f"  ({_duration(self.seconds * (self._total - self._done) / self._done)} to go)"

    def _table(self) -> Table:
        from rich.table import Table

        done = len(self.finished) + len(self.failed)
        title = f"{done} of {self._count} runs ended{self._rest()}"
        table = Table("run", "step", "loss", "KL", "channels", "to go", title=title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for run, progress in self._going.values():
            cells = ["", "", "", ""]
            if (entry := progress.entry) is not None:
                images = (run.config.steps - progress.step) * (entry.images / entry.step)
                cells = [
                    f"{entry.loss:.1f}",
                    f"{entry.kl:.2f}",
                    f"{entry.active_channels}/{len(entry.kl_per_dim)}",
                    _duration(images / entry.images_per_second),
                ]
            if progress.doing == "evaluating":
                cells[-1] = "evaluating"
            table.add_row(run.name, f"{progress.step}/{run.config.steps}", *cells)
        return table


def _parameters() -> Iterator[Parameter]:
    """The parameters of ``sweep``: the sweep's own, then every setting of a run, as text."""
    own: dict[str, tuple[Any, Any]] = {
        "out": (
            Path | None,
            typer.Option(help="The sweep's folder.", show_default="sweeps/DATA-ARCHITECTURE"),
        ),
        "file": (Path | None, typer.Option(help="TOML file with settings; a list is an axis of the grid.")),
        "seeds": (int | None, typer.Option(help="Number of seeds, from 0 up, for each setting.")),
        "jobs": (
            int | None,
            typer.Option(
                help="Runs at a time; with --side-by-side, processes.",
                show_default="one for each GPU, or for each CPU core",
            ),
        ),
        "side_by_side": (
            int | None,
            typer.Option(
                help="Runs that a process trains side by side, on a GPU only. Each takes the memory that it takes "
                "alone, but for the images. How much faster they are is not measured yet.",
                show_default="1",
            ),
        ),
        "ray": (
            str | None,
            typer.Option(
                help="Train on the nodes of a Ray cluster: auto, the one that this machine is a node of, or HOST:PORT of "
                "its head. The sweep's folder must be on a file system that all nodes share. Needs the extra ray.",
                metavar="auto|ADDRESS",
                show_default="on this machine",
            ),
        ),
    }
    yield Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    for name, (kind, option) in own.items():
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])
    yield Parameter("metrics", Parameter.KEYWORD_ONLY, default=METRICS, annotation=Metrics)
    texts = {
        "recipe": "Take the settings of this recipe, one for the whole sweep; settings given as well replace its values. "
        f"One of {', '.join(RECIPES)}.",
        "objective": f"Objectives: {', '.join(OBJECTIVES)}.",
        **{name: _help(found) for name, found in _SETTINGS.items()},
    }
    for name, text in texts.items():
        option = typer.Option(
            help=text,
            metavar="NAME" if name == "recipe" else "VALUE,VALUE,...",
            rich_help_panel="Settings of the runs",
            show_default=False,
        )
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option])


def _help(found: Declared) -> str:
    words = choices(found.type) if found.setting.parse is None else ()
    return f"{found.setting.help} One of {', '.join(words)}." if words else found.setting.help


_SIGNATURE = Signature(list(_parameters()))
sweep.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
sweep.__annotations__ = {name: found.annotation for name, found in _SIGNATURE.parameters.items()}

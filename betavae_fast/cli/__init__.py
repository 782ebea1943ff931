"""The command line, a file for each command.

torch and everything built on it are imported inside the commands, so that ``--help`` is instant and ``_prepare`` can
set environment variables that torch and matplotlib read when they are loaded.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

import typer
from typer.main import get_command

from betavae_fast.cli import bench, encode, evaluate, export, info, sample, sweep, train, traverse
from betavae_fast.cli.errors import INTERRUPTED, CommandError, reworded, with_options
from betavae_fast.training.launch import launched_rank

_SPINS = "3000"  # about 0.1 ms; python -m benchmarks.busy measures their cost and gain

app = typer.Typer(
    name="betavae-fast",
    help="Train β-VAEs, measure and draw what they learn, use them, and benchmark the fused operations.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Train": (train.train, sweep.sweep),
    "Look at what was learned": (evaluate.evaluate, traverse.traverse),
    "Use a model": (encode.encode, sample.sample, export.export),
    "This machine": (bench.bench, info.info),
}
for panel, commands in _PANELS.items():
    for command in commands:
        sentence = " ".join((command.__doc__ or "").split()).partition(". ")[0].removesuffix(".")
        app.command(rich_help_panel=panel, short_help=f"{sentence}.")(command)

_START = """\
betavae-fast trains β-VAEs and shows what they learn. What to type next:

  betavae-fast train --recipe dsprites  # train on rendered sprites, minutes on two CPU cores
  betavae-fast train --data FOLDER --likelihood gaussian --scale 0.1  # train on your images
  betavae-fast evaluate RUN  # see what the channels of a run mean, in one page
  betavae-fast bench  # measure what the fused operations gain on this machine
  betavae-fast info  # see which backends run here
  betavae-fast --help  # see all commands
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: with 0 on success, 2 for wrong arguments, 130 after Ctrl-C, 1 for other errors.

    An expected error is one line on stderr. Without arguments the first commands to type are printed.
    """
    _prepare()
    given = arguments or sys.argv[1:]
    if not given:
        print(_START, end="")
        _end(0)
    try:
        status = app(given, standalone_mode=False) or 0
    except CommandError as error:
        _fail(with_options(str(error), _options(given[0])), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except OSError as error:
        # A full disk, a folder without write permission, a closed pipe.
        _fail(str(error), 1)
    except Exception as error:
        # Wrong options: typer's exceptions have no public base class in all its versions, but all have this method.
        if not hasattr(error, "format_message"):
            raise
        _fail(reworded(error.format_message()), 2)
    if status == INTERRUPTED:  # newer versions of typer return a status instead of raising
        _fail("interrupted", INTERRUPTED)
    _end(status)


def _prepare() -> None:
    """Set up the process: threads that wait passively, pictures without a display, output for any terminal."""
    # By default OpenMP's threads spin for a millisecond before they sleep. Beside another busy program a step then takes
    # 10 to 20 times as long, because a spinning thread keeps the core from the thread that it waits for. Threads that
    # sleep immediately cost a third of a step on an idle virtual machine, so GNU's OpenMP is set to spin briefly first.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    # Commands write files; a notebook's MPLBACKEND exists only in its kernel.
    os.environ["MPLBACKEND"] = "agg"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # characters that the terminal's encoding lacks become "?"
    warnings.showwarning = lambda message, *_: _print_error(f"warning: {message}")


def _options(command: str) -> dict[str, str]:
    """The options of a command by the names of its parameters."""
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    return {one.name: one.opts[0] for one in found.params if one.opts[0].startswith("-")}


def _fail(message: str, exit_code: int) -> NoReturn:
    _print_error(message)
    _end(exit_code)


def _print_error(message: str) -> None:
    """Print one line on stderr."""
    rank = launched_rank()
    process = "" if rank is None else f"process {rank}: "
    print(f"betavae-fast: {process}{' '.join(message.split())}", file=sys.stderr)


def _end(status: int) -> NoReturn:
    if launched_rank() is not None:
        # os._exit skips Python's finalization, which takes the interpreter from gloo's threads: a thread that is still
        # releasing a tensor would then abort the process, in one of a hundred exits on a busy machine.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)

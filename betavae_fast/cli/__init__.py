"""The command line, a file for each command.

torch and everything built on it is imported inside the commands: ``--help`` is instant, and ``_prepare`` can set
environment variables that torch and matplotlib read when they are loaded.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import typer

from betavae_fast.cli import bench, evaluate, info, train, traverse
from betavae_fast.cli.errors import INTERRUPTED, CommandError
from betavae_fast.training.launch import launched_rank

_SPINS = "3000"  # about 0.1 ms; python -m benchmarks.busy measures what they cost and gain

app = typer.Typer(
    name="betavae-fast",
    help="Train β-VAEs, measure what they learn and how fast, and look at it.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (train.train, evaluate.evaluate, traverse.traverse, bench.bench, info.info):
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 2 with one line on stderr for wrong arguments, 130 after Ctrl-C, 1
    otherwise."""
    _prepare()
    try:
        status = app(arguments or sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except CommandError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except (
        OSError
    ) as error:  # a full disk, a folder that may not be written, a reader that has closed the pipe
        _fail(str(error), 1)
    except Exception as error:
        # Wrong options. typer's exceptions have no public base class that spans its versions, but all have
        # this.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), 2)
    if status == INTERRUPTED:  # newer typer makes a status of the exception
        _fail("interrupted", INTERRUPTED)
    _end(status)


def _prepare() -> None:
    """Set up the process: threads that wait passively, pictures without a display, output that any terminal takes."""
    # By default OpenMP's threads spin for a millisecond before they sleep. Beside another busy program a step then takes
    # 10 to 20 times as long, because a spinning thread keeps the core from the thread that it waits for. Waking a thread
    # that sleeps at once costs a third of a quiet step on a virtual machine; GNU's OpenMP can be told to spin briefly.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    # Commands write files; a notebook's MPLBACKEND exists only in its kernel.
    os.environ["MPLBACKEND"] = "agg"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # characters that the terminal's encoding lacks become "?"
    warnings.showwarning = lambda message, *_: _print_error(f"warning: {message}")


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
        # Without Python's finalization: it takes the interpreter from gloo's threads, and one that is still letting go
        # of a tensor then aborts the process, one in a hundred on a busy machine.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)

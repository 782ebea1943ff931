"""The command line, a file for each command. torch and everything built on it is imported inside the commands, so
that ``--help`` is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from betavae_fast.cli import bench, evaluate, info, train, traverse
from betavae_fast.cli.errors import INTERRUPTED, CommandError

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
    try:
        status = app(arguments or sys.argv[1:] or ["--help"], standalone_mode=False) or 0
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
    if status == INTERRUPTED:  # newer typer makes a status of the exception
        _fail("interrupted", INTERRUPTED)
    _end(status)


def _fail(message: str, exit_code: int) -> NoReturn:
    rank = f"process {os.environ['RANK']}: " if _one_of_several() else ""
    print(f"betavae-fast: {rank}{' '.join(message.split())}", file=sys.stderr)
    _end(exit_code)


def _end(status: int) -> NoReturn:
    if _one_of_several():
        # Without Python's finalization: it takes the interpreter from gloo's threads, and one that is still letting go
        # of a tensor then aborts the process, one in a hundred on a busy machine.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _one_of_several() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1

"""Starts and ends the programs that a benchmark runs."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import IO

GRACE_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1


@contextmanager
def started(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    output: int | IO[bytes] | None = None,
    *,
    interrupted_for: float = 0.0,
) -> Iterator[subprocess.Popen[str]]:
    """Start ``command``; when the block is left, end it and everything it has started.

    On Linux it is also killed if this process dies without leaving the block.

    Args:
        environment: variables added to those of this process.
        output: Popen's ``stdout``; if it is given, errors go there, too.
        interrupted_for: seconds for the program to write its results after SIGINT, which only the program itself gets,
            before everything is ended; with 0 there is no SIGINT.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_end_with_parent(),
    )
    try:
        yield process
    finally:
        if interrupted_for and process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(interrupted_for)
        _end(process)


def _end_with_parent() -> partial[int] | None:
    """The function that a new process calls before its program.

    The library is loaded here, because little is safe between a fork and the program.
    """
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end(process: subprocess.Popen[str]) -> None:
    """End the process group, with SIGTERM first, because ninja then ends its compilers, which are in other groups."""
    if not hasattr(os, "killpg"):
        process.kill()
    else:
        deadline = monotonic() + GRACE_SECONDS
        with suppress(ProcessLookupError):  # the whole group has ended
            os.killpg(process.pid, signal.SIGTERM)
            while monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()

"""Programs that a benchmark starts."""

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
    """``command``, ended with everything it has started when the block is left; ``output`` as Popen's stdout.

    On Linux it is also killed when this process dies without leaving the block.

    Args:
        environment: beside this process's own.
        interrupted_for: the program, without what it started, gets SIGINT first and so many seconds to write down what it
            has.
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
    """What a new process runs before its program; loaded here, because after a fork little is safe."""
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end(process: subprocess.Popen[str]) -> None:
    """By SIGTERM first: ninja's compilers have process groups of their own, and it ends them when asked to."""
    if not hasattr(os, "killpg"):
        process.kill()
    else:
        deadline = monotonic() + GRACE_SECONDS
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(process.pid, signal.SIGTERM)
            while monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()

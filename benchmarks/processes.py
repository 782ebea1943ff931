"""Programs that a benchmark starts."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

_GRACE_SECONDS = 3.0


@contextmanager
def started(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], output: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """``command``, ended with everything it has started when the block is left; ``output`` as Popen's stdout.

    Args:
        environment: beside this process's own.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """By SIGTERM first: ninja's compilers have process groups of their own, and it ends them when asked to."""
    if not hasattr(os, "killpg"):
        process.kill()
    else:
        deadline = monotonic() + _GRACE_SECONDS
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(process.pid, signal.SIGTERM)
            while monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()

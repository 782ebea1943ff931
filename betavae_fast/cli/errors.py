"""Errors that end a command with one line and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # 128 + SIGINT, the status that shells expect after Ctrl-C


class CommandError(Exception):
    """An error message of one line for the user, and the exit code of the command."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn errors of a command's set-up, which are about its arguments, into CommandErrors with exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        raise CommandError(str(error) or "out of memory") from error

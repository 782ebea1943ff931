"""How a command ends when it cannot do what it was told: one line, and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # 128 + SIGINT, what shells expect of a program that Ctrl-C ended


class CommandError(Exception):
    """What the user has to know, in one line, and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def usage_errors() -> Iterator[None]:
    """What a command's set-up raises is about its arguments: one line, exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise CommandError(str(error)) from error

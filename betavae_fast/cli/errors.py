"""Errors that end a command with one line and an exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from betavae_fast.settings import did_you_mean

INTERRUPTED = 130  # 128 + SIGINT, the status that shells expect after Ctrl-C


class CommandError(Exception):
    """An error message of one line for the user, and the exit code of the command."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def reworded(message: str) -> str:
    """An error message of typer's for the user.

    What the library below typer says to programmers is left out. If a wrong word is close to a right one, the message
    asks whether that was meant.

    >>> reworded("Invalid value for '--format': Value error, 'onxx' is not one of 'onnx', 'pt2', 'hub'.")
    "Invalid value for '--format': 'onxx' is not one of 'onnx', 'pt2', 'hub', did you mean 'onnx'?"
    """
    message = message.replace("Value error, ", "")
    if wrong := re.search(r"'([^']*)' is not one of ('.*')\.$", message):
        meant = did_you_mean(wrong[1], re.findall(r"'([^']*)'", wrong[2]))
        return message.removesuffix(".") + meant if meant else message
    return message


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn errors of a command's set-up, which are about its arguments, into CommandErrors with exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        raise CommandError(str(error) or "out of memory") from error

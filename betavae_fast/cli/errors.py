"""Errors that end a command with one line and an exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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


def with_options(message: str, options: Mapping[str, str]) -> str:
    """``message`` with the options of a command where it names the parameters of Python functions.

    A name of several words stands for its option wherever it is, also in a list. A name of one word may be an ordinary
    word, so it must be the subject at the beginning of a sentence that says what is wrong with it.

    Args:
        options: for the name of each parameter its option.

    >>> options = {"batch_size": "--batch-size", "steps": "--steps"}
    >>> with_options("steps must be at least 1, got 0", options)
    '--steps must be at least 1, got 0'
    >>> with_options("batch_size 9 is too large, batch_size=8 (--batch-size 8) works", options)
    '--batch-size 9 is too large, --batch-size 8 works'
    >>> with_options("steps is 3, so batch_size must be given", options)
    '--steps is 3, so --batch-size must be given'
    """
    name = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    both = rf"\b({name})(?:=\S+)? \((-[^ )]+)([^)]*)\)"
    message = re.sub(both, lambda m: m[2] + m[3] if m[2] == options[m[1]] else m[0], message)
    listed = rf"(?<![\w/.-])(?:{name})(?:, (?:{name}))*(?![\w/=-]|\.\w)"
    message = re.sub(
        listed,
        lambda m: ", ".join(options[word] for word in m[0].split(", ")) if "_" in m[0] else m[0],
        message,
    )
    faults = r"must|cannot|is an option|is for|is written|has one value|is \S+, so"
    subject = rf"(?:^|(?<=: )|(?<=, so ))({name})(?= (?:{faults})\b)"
    return re.sub(subject, lambda m: options[m[0]], message)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn errors of a command's set-up, which are about its arguments, into CommandErrors with exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        raise CommandError(str(error) or "out of memory") from error

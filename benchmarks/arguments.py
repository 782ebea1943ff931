"""The command lines of the benchmarks: one style of help, and the options and argument types that they share."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from betavae_fast.bench.results import check_writable

_PLACES = ("--out", "--pictures")


def parser_of(module: str, about: str | None) -> argparse.ArgumentParser:
    """The parser of ``python -m benchmarks.MODULE``, whose help is the docstring of the module."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_device(parser: argparse.ArgumentParser, default: str = "cpu") -> None:
    parser.add_argument(
        "--device", type=available, choices=("cpu", "cuda"), default=default, help=f"default: {default}"
    )


def command(module: str, arguments: Sequence[str]) -> str:
    """The command that measures the same again, without the options that say where to write."""
    pairs = zip(["", *arguments], arguments, strict=False)
    kept = (a for before, a in pairs if before not in _PLACES and a.partition("=")[0] not in _PLACES)
    return shlex.join(["python", "-m", *module.split(), *kept])


def at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
        return int(text)

    return integer


positive = at_least(1)


def available(text: str) -> str:
    """A device type that torch can use here; the option's ``choices`` list the types."""
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch sees no CUDA device")
    return text


def writable(text: str) -> Path:
    """A path that can be written, which is checked before anything is measured."""
    try:
        check_writable(Path(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def writable_folder(text: str) -> Path:
    """A folder in which files can be written; it is made if missing."""
    return writable(str(Path(text, "file"))).parent

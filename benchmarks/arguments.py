"""What the benchmarks' command lines have in common."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from betavae_fast.bench.results import check_writable


def command(module: str, arguments: Sequence[str]) -> str:
    """What measures the same again; where it wrote to is left out."""
    pairs = zip(["", *arguments], arguments, strict=False)
    kept = (a for before, a in pairs if before != "--out" and not a.startswith("--out"))
    return shlex.join(["python", "-m", module, *kept])


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def writable(text: str) -> Path:
    """A file that can be written: better known before anything is measured."""
    try:
        check_writable(Path(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)

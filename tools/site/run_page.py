"""Runs the ``python`` and ``console`` blocks of a page from top to bottom, in the current folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from betavae_fast import cli

_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class MissingLibraryError(Exception):
    """A page imports a library that is not installed; ``library`` is its name and ``line`` that of the block."""

    def __init__(self, library: str, line: int) -> None:
        super().__init__(f"{library} is not installed: the page was run up to line {line}")
        self.library, self.line = library, line


def blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """The language, the code and the first line of each block to run."""
    for block in _BLOCK.finditer(text):
        yield block[1], block[2], text.count("\n", 0, block.start(2))


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each ``$ betavae-fast`` line of a ``console`` block."""
    for line in text.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line.removeprefix("$ "), comments=True)
        assert program == "betavae-fast", line
        yield arguments


def run_page(page: Path) -> dict[str, Any]:
    """Run a page. Returns: the names that its blocks defined.

    Raises: MissingLibraryError; AssertionError for a command that fails; whatever a block raises.
    """
    names: dict[str, Any] = {"__name__": page.stem}
    for language, code, line in blocks(page.read_text(encoding="utf-8")):
        if language == "console":
            for arguments in commands(code):
                try:
                    cli.main(arguments)
                except SystemExit as end:
                    assert end.code == 0, shlex.join(arguments)
            continue
        try:
            # The added newlines make tracebacks name the lines of the page.
            exec(compile("\n" * line + code, page, "exec"), names)
        except ModuleNotFoundError as error:
            raise MissingLibraryError(str(error.name), line) from error
    return names

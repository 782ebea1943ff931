"""The ``python`` and ``console`` blocks of every page, run from top to bottom. The asserts in them are the tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from betavae_fast import cli
from tests.backends import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / "index.md", *DOCS.glob("guides/*.md")))
LIBRARIES = {"diffusers", "pythae", "lightning", "onnxruntime"}
_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """The language, the code and the first line of each block to run."""
    for block in _BLOCK.finditer(text):
        yield block[1], block[2], text.count("\n", 0, block.start(2))


def run_command(line: str) -> None:
    program, *arguments = shlex.split(line.removeprefix("$ "), comments=True)
    assert program == "betavae-fast", line
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 0, line


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    names = {"__name__": page}
    for language, code, line in blocks(text):
        if language == "console":
            for command in code.replace("\\\n", " ").splitlines():
                run_command(command)
            continue
        try:
            # The added newlines make tracebacks name the lines of the page.
            exec(compile("\n" * line + code, DOCS / page, "exec"), names)
        except ModuleNotFoundError as error:
            if error.name not in LIBRARIES:
                raise
            pytest.skip(f"{error.name} is not installed: the page was run up to line {line}")


def test_blocks_are_found_with_their_lines() -> None:
    text = "a\n```python\nx = 1\n```\n```sh\nmake\n```\n```console\n$ betavae-fast info\n```\n"
    assert list(blocks(text)) == [("python", "x = 1\n", 2), ("console", "$ betavae-fast info\n", 8)]

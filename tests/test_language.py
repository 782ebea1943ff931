"""Docstrings begin with a verb or with the thing they define, so that the first line can be read alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.backends import ROOT

HEADLESS = ("What", "Where", "Of", "Which", "How", "Whether")
FOLDERS = ("betavae_fast", "benchmarks", "tests", "tools", "examples")


def first_lines() -> Iterator[tuple[str, str]]:
    """(place, first line) of every docstring."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node)
                    if text:
                        line = getattr(node, "lineno", 1)
                        yield f"{path.relative_to(ROOT)}:{line}", text.splitlines()[0]


def test_docstrings_name_their_subject_first() -> None:
    found = list(first_lines())
    headless = [f"{place}: {line}" for place, line in found if line.split(" ")[0].strip(",:;") in HEADLESS]
    assert found and not headless, "\n".join(headless)

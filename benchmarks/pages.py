"""Writes tables of results as Markdown, and into the pages that show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. A column whose name ends with ":" is aligned to the right."""
    rule = ["---:" if column.endswith(":") else "---" for column in columns]
    lines = ([column.rstrip(":") for column in columns], rule, *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def between(text: str, mark: str, table: str) -> str:
    """``text`` with ``table`` between the two places of ``<!-- MARK -->``."""
    mark = f"<!-- {mark} -->"
    before, _, after = text.split(mark)
    return f"{before}{mark}\n{table}\n{mark}{after}"


def update(page: Path, mark: str, table: str) -> None:
    page.write_text(between(page.read_text(encoding="utf-8"), mark, table), encoding="utf-8")

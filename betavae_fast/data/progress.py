"""The progress bar of data sets that take long to load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial


@contextmanager
def progress_bar(description: str, total: int, *, enabled: bool) -> Iterator[Callable[[float], None]]:
    """Show a bar on stderr, from 0 to `total`, if `enabled`; yield the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)  # a folder may be named [red]
    columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not enabled) as bar:
        yield partial(bar.advance, bar.add_task(description, total=total))

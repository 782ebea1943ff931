"""Results on the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.headline import headline, seconds, size, times
from benchmarks.registry import get
from benchmarks.results import Measurement, Results


def show(results: Results, console: Console) -> None:
    """A table for each problem and direction, then the lines that a README may state."""
    machine = results.machine
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    console.print(f"[bold]{results.op}[/] on {where}, torch {results.versions['torch']}, {results.date}")
    for (shape, dtype, direction), rows in groupby(
        results.measurements, lambda m: (m.shape, m.dtype, m.direction)
    ):
        console.print(_table(f"{shape} {dtype} {direction}", list(rows)))
    for problem in results.parity:
        for name, why in problem.absent.items():
            console.print(f"[dim]{problem.shape} {problem.dtype} without {name}: {why}[/]", highlight=False)
    for problem_name, why in results.left_out.items():
        console.print(f"[yellow]{problem_name} left out: {why}[/]", highlight=False)
    for line in headlines(results):
        console.print(line, highlight=False, soft_wrap=True)


def headlines(results: Results) -> list[str]:
    """Of our own backends, forward and backward together."""
    device = "cuda" if results.machine["gpu"] else "cpu"
    ours = {c.name for c in get(results.op).contenders(device) if c.ours}
    return [
        headline(m)
        for m in results.measurements
        if m.contender in ours and m.contender != "reference" and m.direction == "forward+backward"
    ]


def _table(title: str, rows: list[Measurement]) -> Table:
    first = rows[0]
    copies = f"{size(first.bytes)} at least; copying {first.copy_gigabytes_per_second:.3g} GB/s"
    if first.cache_copy_gigabytes_per_second is not None:
        copies += f", {first.cache_copy_gigabytes_per_second:.3g} GB/s in cache"
    table = Table(
        title=title,
        caption=copies,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("contender", no_wrap=True)
    for column in ("p50", "p20", "p80", "eager", "compile", "floor", "cache floor"):
        table.add_column(column, justify="right", no_wrap=True)
    for m in rows:
        ratios = (m.speedup_over_eager, m.speedup_over_compile, m.floor_ratio, m.cache_floor_ratio)
        table.add_row(
            m.contender,
            *map(seconds, (m.p50, m.p20, m.p80)),
            *("" if r is None else times(r) for r in ratios),
        )
    return table

"""Shows results on the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from betavae_fast.bench.registry import get
from betavae_fast.bench.results import Measurement, Results
from betavae_fast.bench.units import seconds, size, times


def shown(results: Results) -> Group:
    """A table for each problem and direction, the contenders and problems that were left out, and the gains."""
    machine = results.machine
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    title = f"[bold]{results.op}[/] on {where}, torch {results.versions['torch']}, {results.date}"
    tables = [
        _table(f"{shape} {dtype} {direction}", list(rows), results)
        for (shape, dtype, direction), rows in groupby(
            results.measurements, lambda m: (m.shape, m.dtype, m.direction)
        )
    ]
    notes = []
    for problem in results.parity:
        about = f"{problem.shape} {problem.dtype}"
        notes.append(f"[dim]{about}: {len(problem.errors)} comparisons with float64 within budget[/]")
        for name, why in problem.absent.items():
            notes.append(f"[dim]{about} without {name}: {escape(why)}[/]")
    for name, why in results.left_out.items():
        notes.append(f"[yellow]{name} left out: {escape(why)}[/]")
    return Group(title, *tables, *notes, *map(escape, gains(results)))


def gains(results: Results) -> list[str]:
    """A sentence for each problem: the time and memory that our fastest backend saves, forward and backward together."""
    eager = {(m.shape, m.dtype): m for m in both_directions(results) if m.contender == "eager"}
    return [_gain(best, eager.get((best.shape, best.dtype)), results) for best in fastest_of_ours(results)]


def both_directions(results: Results) -> list[Measurement]:
    return [m for m in results.measurements if m.direction == "forward+backward"]


def fastest_of_ours(results: Results) -> list[Measurement]:
    """The fastest of our backends in each problem, forward and backward together."""
    device = "cuda" if results.machine["gpu"] else "cpu"
    ours = {c.name for c in get(results.op).contenders(device) if c.ours} - {"reference"}
    mine = [m for m in both_directions(results) if m.contender in ours]
    return [min(rows, key=lambda m: m.p50) for _, rows in groupby(mine, lambda m: (m.shape, m.dtype))]


def _gain(best: Measurement, eager: Measurement | None, results: Results) -> str:
    found = f"{best.op} {best.shape} {best.dtype}, forward and backward: {seconds(best.p50)} with {best.contender}"
    if eager:
        found += f" instead of {seconds(eager.p50)} with eager PyTorch ({times(eager.p50 / best.p50)})"
    if (ratio := results.speedup(best, "compile")) is not None:
        found += f", {times(ratio)} as fast as torch.compile"
    if eager and best.peak_bytes is not None and eager.peak_bytes is not None:
        found += f"; {size(best.peak_bytes)} of memory instead of {size(eager.peak_bytes)}"
    return found + "."


def _table(title: str, rows: list[Measurement], results: Results) -> Table:
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
        padding=0,
    )
    table.add_column("contender", no_wrap=True)
    for column in ("p50", "p20", "p80", "eager", "compile", "floor", "cache", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    on_gpu = first.launches is not None
    if on_gpu:
        table.add_column("launches", justify="right", no_wrap=True)
    for m in rows:
        gained = (results.speedup(m, over) for over in ("eager", "compile"))
        ratios = (*gained, m.floor_ratio, m.cache_floor_ratio)
        table.add_row(
            m.contender,
            *map(seconds, (m.p50, m.p20, m.p80)),
            *("" if r is None else times(r) for r in ratios),
            "" if m.peak_bytes is None else size(m.peak_bytes),
            *([str(m.launches)] if on_gpu else []),
        )
    return table

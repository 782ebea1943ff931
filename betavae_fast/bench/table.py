"""Prints results on the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from betavae_fast.bench.registry import get
from betavae_fast.bench.results import Measurement, Results
from betavae_fast.bench.units import seconds, size, times


def show(results: Results, console: Console) -> None:
    """Print a table for each problem and direction, the contenders and problems that were left out, and the gains."""
    machine = results.machine
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    console.print(f"[bold]{results.op}[/] on {where}, torch {results.versions['torch']}, {results.date}")
    for (shape, dtype, direction), rows in groupby(
        results.measurements, lambda m: (m.shape, m.dtype, m.direction)
    ):
        console.print(_table(f"{shape} {dtype} {direction}", list(rows), results))
    for problem in results.parity:
        console.print(
            f"[dim]{problem.shape} {problem.dtype}: {len(problem.errors)} comparisons with float64 within budget[/]",
            highlight=False,
        )
        for name, why in problem.absent.items():
            console.print(
                f"[dim]{problem.shape} {problem.dtype} without {name}: {escape(why)}[/]", highlight=False
            )
    for problem_name, why in results.left_out.items():
        console.print(f"[yellow]{problem_name} left out: {escape(why)}[/]", highlight=False)
    for sentence in gains(results):
        console.print(sentence, highlight=False, soft_wrap=True, markup=False)


def gains(results: Results) -> list[str]:
    """A sentence for each problem: the time and memory that our fastest backend saves, forward and backward together."""
    device = "cuda" if results.machine["gpu"] else "cpu"
    ours = {c.name for c in get(results.op).contenders(device) if c.ours} - {"reference"}
    both = [m for m in results.measurements if m.direction == "forward+backward"]
    found = []
    for _, rows in groupby(both, lambda m: (m.shape, m.dtype)):
        by_name = {m.contender: m for m in rows}
        if mine := [m for name, m in by_name.items() if name in ours]:
            found.append(_gain(min(mine, key=lambda m: m.p50), by_name.get("eager"), results))
    return found


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

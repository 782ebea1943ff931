"""Prints results on the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from betavae_fast.bench.headline import headline, seconds, size, times
from betavae_fast.bench.registry import get
from betavae_fast.bench.results import Measurement, Results


def show(results: Results, console: Console) -> None:
    """Print a table for each problem and direction, then the contenders and problems that were left out."""
    machine = results.machine
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    console.print(f"[bold]{results.op}[/] on {where}, torch {results.versions['torch']}, {results.date}")
    for (shape, dtype, direction), rows in groupby(
        results.measurements, lambda m: (m.shape, m.dtype, m.direction)
    ):
        console.print(_table(f"{shape} {dtype} {direction}", list(rows)))
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


def headlines(results: Results) -> list[str]:
    """The lines that a README may state: those of our own backends, forward and backward together."""
    return [headline(m) for m in _ours(results)]


def gains(results: Results) -> list[str]:
    """A sentence for each problem: the time and memory that our fastest backend saves, forward and backward together."""
    return [
        _gain(min(found, key=lambda m: m.p50), results)
        for _, rows in groupby(_ours(results), lambda m: (m.shape, m.dtype))
        if (found := list(rows))
    ]


def _ours(results: Results) -> list[Measurement]:
    device = "cuda" if results.machine["gpu"] else "cpu"
    ours = {c.name for c in get(results.op).contenders(device) if c.ours}
    return [
        m
        for m in results.measurements
        if m.contender in ours and m.contender != "reference" and m.direction == "forward+backward"
    ]


def _gain(best: Measurement, results: Results) -> str:
    beside = {
        m.contender: m
        for m in results.measurements
        if (m.shape, m.dtype, m.direction) == (best.shape, best.dtype, best.direction)
    }
    found = f"{best.op} {best.shape} {best.dtype}, forward and backward: {seconds(best.p50)} with {best.contender}"
    if eager := beside.get("eager"):
        found += f" instead of {seconds(eager.p50)} with eager PyTorch ({times(eager.p50 / best.p50)})"
    if best.speedup_over_compile is not None:
        found += f", {times(best.speedup_over_compile)} as fast as torch.compile"
    if eager and best.peak_bytes is not None and eager.peak_bytes is not None:
        found += f"; {size(best.peak_bytes)} of memory instead of {size(eager.peak_bytes)}"
    return found + "."


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
        padding=0,
    )
    table.add_column("contender", no_wrap=True)
    for column in ("p50", "p20", "p80", "eager", "compile", "floor", "cache", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    on_gpu = first.launches is not None
    if on_gpu:
        table.add_column("launches", justify="right", no_wrap=True)
    for m in rows:
        ratios = (m.speedup_over_eager, m.speedup_over_compile, m.floor_ratio, m.cache_floor_ratio)
        table.add_row(
            m.contender,
            *map(seconds, (m.p50, m.p20, m.p80)),
            *("" if r is None else times(r) for r in ratios),
            "" if m.peak_bytes is None else size(m.peak_bytes),
            *([str(m.launches)] if on_gpu else []),
        )
    return table

"""The table of a sweep that runs in a terminal, and the lines of one that does not."""

from __future__ import annotations

from rich.console import Console

from betavae_fast.cli.sweep import _Watcher
from betavae_fast.sweep.grid import grid
from betavae_fast.sweep.tasks import Ended, Progress
from betavae_fast.training.log import LogEntry


def entry(step: int) -> LogEntry:
    channels = [1.5, 0.0]
    return LogEntry(
        step,
        images=64 * step,
        seconds=1.0,
        images_per_second=640.0,
        loss=120.25,
        reconstruction=114.0,
        kl=1.5,
        kl_per_dim=channels,
        mean_dispersion=channels,
        variance=channels,
    )


def test_a_terminal_shows_the_runs_that_go_on() -> None:
    runs = grid({"seed": [0, 1], "steps": 1000})
    console = Console(force_terminal=True, width=100, record=True)
    watcher = _Watcher(console, runs)
    for run in runs:
        watcher.on_progress(run, Progress(100))
    watcher.on_progress(runs[0], Progress(400, entry(400)))
    watcher.on_progress(runs[1], Progress(1000, entry(1000), "evaluating"))
    console.print(watcher._table())
    shown = console.export_text()
    # 600 steps at 10 a second.
    assert [cell.strip() for cell in line_of(shown, "seed=0")] == [
        "seed=0",
        "400/1000",
        "120.2",
        "1.50",
        "1/2",
        "60 s",
    ]
    assert line_of(shown, "seed=1")[-1].strip() == "evaluating"
    assert "0 of 2 runs ended" in shown


def line_of(shown: str, name: str) -> list[str]:
    (line,) = [line for line in shown.splitlines() if name in line]
    return [cell for cell in line.split("│") if cell]


def test_a_line_for_each_run_that_ends() -> None:
    runs = grid({"seed": [0, 1, 2], "steps": 10})
    console = Console(width=200, record=True)
    watcher = _Watcher(console, runs)
    watcher.on_progress(runs[0], Progress(0))
    watcher.on_progress(runs[0], Progress(10, entry(10)))
    watcher.on_end(runs[0], Ended("finished"))
    watcher.on_end(runs[1], Ended("failed", "the loss is not finite"))
    watcher.on_end(runs[2], Ended("stopped"))
    shown = console.export_text()
    assert "1/3  seed=0  finished  loss 120.2  reconstruction 114.0  KL 1.50  1/2 channels active" in shown
    assert "2/3  seed=1  failed: the loss is not finite" in shown
    assert "seed=2" not in shown and watcher.unfinished == 1

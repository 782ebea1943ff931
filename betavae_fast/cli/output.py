"""The output of commands: the progress of training, a summary of what the model has learned, and its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from betavae_fast.choices import ACTIVE_NATS

if TYPE_CHECKING:
    from rich.console import Console

    from betavae_fast.evaluation.scores import ScoreRow
    from betavae_fast.evaluation.summary import Summary
    from betavae_fast.training.log import LogEntry
    from betavae_fast.training.state import TrainState


def images_in_words(count: int) -> str:
    """The number of images as a text.

    >>> images_in_words(1), images_in_words(4096)
    ('1 image', '4,096 images')
    """
    return f"{count:,} image{'' if count == 1 else 's'}"


@contextmanager
def progress(
    console: Console, state: TrainState
) -> Iterator[tuple[Callable[[int], None], Callable[[LogEntry], None]]]:
    """Show a progress bar; yields callbacks for the steps done and for the log entries.

    If the output is not a terminal, each entry is printed as a line instead.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    # On a narrow terminal the text wraps, and the bar keeps its width.
    text = TextColumn("{task.description}", table_column=Column(ratio=1))
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(), text)
    with Progress(*columns, console=console, expand=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=state.config.steps, completed=state.step)
        validated = ""  # the last validation, which the bar keeps showing

        def on_entry(entry: LogEntry) -> None:
            nonlocal validated
            line = (
                f"{entry.images_per_second:,.0f} images/s  loss {entry.loss:.1f}  "
                f"reconstruction {entry.reconstruction:.1f}  KL {entry.kl:.2f}  "
                f"{entry.active_channels}/{len(entry.kl_per_dim)} channels active"
            )
            if entry.validation:
                found = entry.validation
                validated = (
                    f"  held out: reconstruction {found['reconstruction']:.1f}  KL {found['kl']:.2f}  "
                    f"ELBO {found['elbo']:.1f}"
                )
            bar.update(task, description=line + validated)
            if not console.is_terminal:
                console.print(
                    f"step {entry.step}/{state.config.steps}  {line}{validated if entry.validation else ''}"
                )

        yield lambda step: bar.update(task, completed=step), on_entry


@contextmanager
def counting(
    console: Console, what: str, total: int
) -> Iterator[tuple[Callable[[int], object], Callable[[str], object]]]:
    """Show a bar of ``total`` items while ``what`` is done to them, if the output is a terminal.

    Yields the function that advances the bar, and the one that changes its description.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count), lambda text: bar.update(task, description=text)


def print_summary(console: Console, summary: Summary) -> None:
    from rich.table import Table

    table = Table(
        "channel", "KL", "mean dispersion", "variance", "", title="Capacity of each channel, in nats"
    )
    for column in table.columns[:4]:
        column.justify = "right"
    for channel in summary.channels:
        nats = (f"{value:.3f}" for value in (channel.kl, channel.mean_dispersion, channel.variance))
        table.add_row(
            str(channel.index),
            *nats,
            "active" if channel.active else "",
            style=None if channel.active else "dim",
        )
    console.print(table)
    console.print(
        f"{summary.active_channels} of {len(summary.channels)} channels are active "
        f"(KL above {ACTIVE_NATS} nats)"
    )
    console.print(
        f"Reconstruction loss, nats an image: {summary.reconstruction:.1f} at the mean code (z = μ), "
        f"{summary.sampled_reconstruction:.1f} at a sampled code as in training; "
        f"{summary.mean_image_reconstruction:.1f} for the mean image, {summary.least_reconstruction:.1f} at least"
    )
    console.print(
        f"Loss at β = 1 (−ELBO): {summary.negative_elbo:.1f} nats an image, the reconstruction loss at a sampled code "
        f"and the KL of {summary.kl:.1f}; all over {summary.images:,} images"
    )


def print_advice(console: Console, sentences: Sequence[str]) -> None:
    """Print what would help a run, if there is anything."""
    if sentences:
        console.print("What would help:")
    for sentence in sentences:
        console.print(f"- {sentence}")


def print_scores(console: Console, rows: Sequence[ScoreRow]) -> None:
    """Print the table of scores, and why some are given over the channels in use as well; nothing without scores."""
    from rich import box
    from rich.table import Table

    from betavae_fast.evaluation.scores import about_in_use

    if not rows:
        return
    table = Table("metric", "all channels", "channels in use", box=box.SIMPLE_HEAD)
    for column in table.columns:
        column.overflow = "fold"  # on a narrow terminal no letter is lost
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        label = row.label if row.codes == "mean" else f"{row.label} ({row.codes} codes)"
        table.add_row(label, str(row.value), str(row.in_use))
    console.print(table)
    console.print(about_in_use(rows))

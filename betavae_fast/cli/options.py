"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from betavae_fast.choices import Kept, MetricName
from betavae_fast.evaluation import ALL_METRICS, DEFAULT_METRICS
from betavae_fast.settings import at_least, did_you_mean

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", show_default="torch's choice")]
RunData = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="The run's images, if they have moved, or other images: a name or a path.",
        show_default="where the run found them",
    ),
]
RunFactors = Annotated[
    str | None,
    typer.Option(
        "--factors",
        help="File of the images' factors: .csv, .npy or .npz.",
        show_default="the run's own, unless --data is given",
    ),
]
Checkpoint = Annotated[
    Kept,
    typer.Option(
        help="Model of the run: the latest, or the best by its validation, as of the latest checkpoint."
    ),
]
METRICS = ",".join(DEFAULT_METRICS)
Metrics = Annotated[
    str,
    typer.Option(
        help=f"Metrics: some of {', '.join(ALL_METRICS)}, or all. dci fits 100 trees for each class of each factor, "
        "which takes minutes on dSprites.",
        metavar="NAME,NAME,...|all",
        show_default="all but dci",
    ),
]


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """The numbers of at least 1 in ``text``, with commas between them. Raises: ValueError for anything else."""
    try:
        numbers = tuple(map(int, text.split(",")))
    except ValueError:
        raise ValueError(f"{name} must be whole numbers with commas between them, got {text!r}") from None
    for number in numbers:
        at_least(1)(name, number)
    return numbers


def chosen_metrics(text: str) -> tuple[MetricName, ...]:
    """The metrics that ``--metrics`` names. Raises: ValueError for an unknown name."""
    told = text.split(",")
    if unknown := [name for name in told if name not in (*ALL_METRICS, "all")]:
        meant = did_you_mean(unknown[0], ALL_METRICS)
        raise ValueError(
            f"unknown metric {unknown[0]!r}: give all, or some of {', '.join(ALL_METRICS)}{meant}"
        )
    return ALL_METRICS if "all" in told else tuple(name for name in ALL_METRICS if name in told)

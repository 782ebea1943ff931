"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from betavae_fast.choices import MetricName
from betavae_fast.evaluation import ALL_METRICS, DEFAULT_METRICS

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


def chosen_metrics(text: str) -> tuple[MetricName, ...]:
    """The metrics that ``--metrics`` names. Raises: ValueError for an unknown name."""
    if text == "all":
        return ALL_METRICS
    told = text.split(",")
    if unknown := [name for name in told if name not in ALL_METRICS]:
        raise ValueError(f"unknown metric {unknown[0]!r}: give all, or some of {', '.join(ALL_METRICS)}")
    return tuple(name for name in ALL_METRICS if name in told)

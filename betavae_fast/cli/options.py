"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

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

"""``betavae-fast traverse``."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from betavae_fast.choices import TraversalRange
from betavae_fast.cli.errors import usage_errors
from betavae_fast.cli.runs import open_run

_SAMPLE = 4096  # images that stand for the aggregated posterior


def traverse(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    image: Annotated[
        int | None, typer.Option(help="Where to start: this image of the data.", show_default="a random one")
    ] = None,
    over: Annotated[
        TraversalRange,
        typer.Option(help="Deviations of the prior N(0, 1), or of each channel's aggregated posterior."),
    ] = "prior",
    extent: Annotated[float, typer.Option(help="Standard deviations to go, both ways.")] = 3.0,
    columns: Annotated[int, typer.Option(help="Values shown in the picture.")] = 11,
    channels: Annotated[int, typer.Option(help="Channels to move: those with the largest KL.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures.", show_default="the run's pictures")
    ] = None,
) -> None:
    """Move one channel at a time and draw what the decoder makes of it: traversal.png, traversal.gif."""
    import torch
    from rich.console import Console

    from betavae_fast.evaluation.encoding import encode
    from betavae_fast.evaluation.summary import choose_images, summarise
    from betavae_fast.evaluation.traversal_files import write_moving_traversal, write_traversal

    console = Console(highlight=False, markup=False, soft_wrap=True)
    with usage_errors():
        for name, value, least in (("columns", columns, 2), ("channels", channels, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not (isfinite(extent) and extent > 0):
            raise ValueError(f"extent must be a finite positive number, got {extent}")
        trained = open_run(run, device, {})
        model, dataset = trained.model, trained.dataset
        if image is not None and not 0 <= image < len(dataset):
            raise ValueError(f"image must be in [0, {len(dataset)}), got {image}")
        sample = choose_images(len(dataset), _SAMPLE)
        start = int(sample[0]) if image is None else image
        encoding = None
        if over == "posterior":
            encoding = encode(model, dataset, sample, precision=trained.precision)
        start_image = dataset.gather(torch.tensor([start], device=dataset.device))[0]
        moved = summarise(model, dataset).channels[:channels]
        folder = trained.folder.pictures if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        still, moving = folder / "traversal.png", folder / "traversal.gif"
        write_traversal(still, model, start_image, moved, encoding=encoding, extent=extent, columns=columns)
        write_moving_traversal(moving, model, start_image, moved, encoding=encoding, extent=extent)
        for path in (still, moving):
            console.print(f"Image {start}: {path}")

"""``betavae-fast traverse``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from betavae_fast.choices import TraversalRange
from betavae_fast.cli.errors import usage_errors
from betavae_fast.cli.options import Checkpoint, Device, RunData
from betavae_fast.evaluation import TRAVERSAL_COLUMNS, TRAVERSAL_EXTENT, TRAVERSED_CHANNELS
from betavae_fast.settings import at_least, positive

_SAMPLE = 4096  # images from which the aggregated posterior is estimated


def traverse(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    image: Annotated[
        int | None,
        typer.Option(help="Index of the image at whose code to start.", show_default="the prior's mean"),
    ] = None,
    over: Annotated[
        TraversalRange,
        typer.Option(
            help="Standard deviations of the prior N(0, 1), or of each channel's aggregated posterior."
        ),
    ] = "prior",
    extent: Annotated[
        float, typer.Option(help="Distance to go in both directions, in standard deviations.")
    ] = TRAVERSAL_EXTENT,
    columns: Annotated[
        int, typer.Option(help="Values of a channel shown in the picture.")
    ] = TRAVERSAL_COLUMNS,
    channels: Annotated[
        int, typer.Option(help="Number of channels to move, by decreasing KL.")
    ] = TRAVERSED_CHANNELS,
    checkpoint: Checkpoint = "latest",
    device: Device = "auto",
    data: RunData = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures.", show_default="the run's pictures")
    ] = None,
) -> None:
    """Move one latent channel at a time and draw the decoded images: traversal.png, traversal.gif.

    The data are loaded only for --image and --over posterior.
    """
    import torch
    from rich.console import Console

    from betavae_fast.data.identity import describe_difference
    from betavae_fast.evaluation.encoding import encode
    from betavae_fast.evaluation.summary import channels_of, choose_images
    from betavae_fast.evaluation.traversal import write_moving_traversal, write_traversal
    from betavae_fast.training.run_folder import results_folder
    from betavae_fast.training.trained_run import open_run

    console = Console(highlight=False, markup=False, soft_wrap=True)
    with usage_errors():
        for name, value, least in (("columns", columns, 2), ("channels", channels, 1)):
            at_least(least)(name, value)
        positive("extent", extent)
        trained = open_run(run, device, data=data, kept=checkpoint).without_factors()
        moved = channels_of(trained.history[-1])[:channels]
        folder = results_folder(trained.folder.pictures if out is None else out).path
        model, start, encoding = trained.model, None, None
        if image is not None or over == "posterior":
            dataset = trained.images()
            if difference := describe_difference(dataset, trained.trained_on):
                console.print(f"These are not the training images: {difference}")
            if image is not None:
                if not 0 <= image < len(dataset):
                    raise ValueError(f"image must be in [0, {len(dataset)}), got {image}")
                start = dataset.gather(torch.tensor([image], device=dataset.device))[0]
            if over == "posterior":
                sample = choose_images(len(dataset), _SAMPLE)
                encoding = encode(model, dataset, sample, precision=trained.precision)
        still, moving = folder / "traversal.png", folder / "traversal.gif"
        write_traversal(still, model, start, moved, encoding=encoding, extent=extent, columns=columns)
        write_moving_traversal(moving, model, start, moved, encoding=encoding, extent=extent)
        where = "The prior's mean" if image is None else f"Image {image}"
        console.print(f"{where}: {still} and {moving}")

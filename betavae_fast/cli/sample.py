"""``betavae-fast sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from betavae_fast.cli.errors import usage_errors
from betavae_fast.cli.options import Checkpoint, Device, RunData
from betavae_fast.cli.output import images_in_words
from betavae_fast.settings import at_least, noise_seed


def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    n: Annotated[int, typer.Option("-n", help="Number of images.")] = 64,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="prior: z ~ N(0, I). aggregate: a mixture of Gaussians fitted to the codes of the run's data. A name or "
            "a path of a data set: the codes of images drawn from it.",
            metavar="prior|aggregate|DATA",
            show_default="prior",
        ),
    ] = None,
    steps_between: Annotated[
        tuple[int, int] | None,
        typer.Option(
            "--between",
            help="Go in -n steps along the straight line between the codes μ of two images of the run's data, given by "
            "their indices.",
            metavar="I J",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    checkpoint: Checkpoint = "latest",
    device: Device = "auto",
    data: RunData = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the files, which replace those of the same name.")
    ] = Path("samples"),
) -> None:
    """Draw codes and decode them to images: NAME.png, a grid, and NAME.npz with the images and their codes z.

    NAME is prior, aggregate, reconstructions or between. The prior needs no data. The aggregated posterior, the codes
    that the decoder saw in training, is estimated from 4,096 images: ten Gaussians over the channels in use, fitted by
    scikit-learn; the other channels are drawn from the prior. Of another data set, different images are drawn and
    reconstructed from their mean codes; the grid has each of them above its reconstruction.
    """
    from rich.console import Console

    from betavae_fast.data.identity import describe_difference
    from betavae_fast.evaluation import sampling
    from betavae_fast.system_memory import check_fits
    from betavae_fast.training.run_folder import results_folder
    from betavae_fast.training.trained_run import open_run

    console = Console(highlight=False, markup=False, soft_wrap=True)
    with usage_errors():
        noise_seed("seed", seed)
        at_least(1 if steps_between is None else 2)("n", n)
        if source is not None and steps_between is not None:
            raise ValueError("give --from or --between, not both")
        is_other_data = source not in (None, "prior", "aggregate")
        if data is not None and steps_between is None and source != "aggregate":
            raise ValueError(f"--data is for --from aggregate and --between, got --from {source or 'prior'}")
        trained = open_run(
            run, device, data=source if is_other_data else data, kept=checkpoint
        ).without_factors()
        model, precision = trained.model, trained.precision
        check_fits(f"-n {n}", sampling.memory_needed(model, n, in_pairs=is_other_data))
        folder = results_folder(out).path
        if steps_between is not None:
            samples = sampling.from_line(model, trained.open_images(), steps_between, n, precision)
        elif is_other_data:
            samples = sampling.from_images(model, trained.open_images(), n, seed, precision)
        elif source == "aggregate":
            dataset = trained.open_images()
            if difference := describe_difference(dataset, trained.trained_on):
                console.print(f"These are not the training images: {difference}")
            samples = sampling.from_aggregate(model, dataset, n, seed, precision)
        else:
            samples = sampling.from_prior(model, n, seed)
        still, numbers = sampling.write(samples, model, folder)
        console.print(f"{images_in_words(n)}, {samples.name}: {still}, {numbers}")

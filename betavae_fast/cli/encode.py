"""``betavae-fast encode``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from betavae_fast.cli.errors import usage_errors
from betavae_fast.cli.options import Checkpoint, Device, RunData, RunFactors, Threads
from betavae_fast.cli.output import counting, images_in_words
from betavae_fast.settings import at_least, noise_seed


def encode(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="File for the codes: .npz, or .parquet, which needs pyarrow; required.")
    ],
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Write z as well: one draw of each posterior.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    kl: Annotated[
        bool, typer.Option("--kl", help="Write the KL of each image in each channel as well, in nats.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists; it is refused otherwise.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images encoded at a time.", show_default="a number that suits the device"),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        typer.Option(help="Precision of the network; the codes are float32.", show_default="the training's"),
    ] = None,
    threads: Threads = None,
    checkpoint: Checkpoint = "latest",
    device: Device = "auto",
    data: RunData = None,
    factors: RunFactors = None,
) -> None:
    """Encode images: write the posterior mean μ and log σ² of every image of the run's data, or of other data.

    The images may be any number, because a part of them is read at a time. Images of a folder are decoded to the size
    and the channels that the model takes, and named by their files. Images with known factors get their classes, others
    their index. An interrupted command leaves no file.
    """
    from time import perf_counter

    from rich.console import Console

    from betavae_fast.evaluation.code_file import check_format, write_codes
    from betavae_fast.training.precision import dtype_of
    from betavae_fast.training.process import set_threads
    from betavae_fast.training.run_folder import results_folder
    from betavae_fast.training.trained_run import open_run

    console = Console(highlight=False, markup=False, soft_wrap=True)
    with usage_errors():
        noise_seed("seed", seed)
        if batch_size is not None:
            at_least(1)("batch_size", batch_size)
        check_format(out)
        if out.exists() and not overwrite:
            raise FileExistsError(
                f"{out} already exists; replace it with --overwrite, or choose another --out"
            )
        set_threads(threads)
        trained = open_run(run, device, data=data, factors=factors, kept=checkpoint)
        dataset = trained.open_images()
        results_folder(out.parent)
        console.print(f"Run: {trained.folder.path}, after step {trained.step}, {dataset!r}")
        start = perf_counter()
        with counting(console, "Encoding", len(dataset)) as (advance, _):
            write_codes(
                out,
                trained.model,
                dataset,
                seed=seed if sampled else None,
                kl=kl,
                batch_size=batch_size,
                precision=trained.precision if precision is None else dtype_of(precision),
                on_images=advance,
            )
        seconds = perf_counter() - start
    rate = len(dataset) / seconds
    console.print(f"{images_in_words(len(dataset))} in {seconds:.1f} s, {rate:,.0f} images/s: {out}")

"""``betavae-fast bench``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from betavae_fast.choices import BenchDtype, BenchOp
from betavae_fast.cli.errors import CommandError, usage_errors
from betavae_fast.cli.options import Threads
from betavae_fast.settings import at_least


def bench(
    op: Annotated[
        BenchOp,
        typer.Option(
            help="Operation: latent (sample and KL), a likelihood of the pixels, or the parts of the KL."
        ),
    ] = "latent",
    batch: Annotated[int, typer.Option(help="Batch size.")] = 1024,
    latent_dim: Annotated[int, typer.Option(help="Latent channels.")] = 32,
    image: Annotated[str, typer.Option(help="Image shape for the likelihoods.", metavar="CxHxW")] = "1x64x64",
    dtype: Annotated[BenchDtype, typer.Option(help="Dtype of the inputs.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure the speedup of the fused operations on this machine, for your batch, latent channels and dtype.

    Each implementation that runs here (eager PyTorch, torch.compile, our backends) is first compared with the formula in
    float64; the command ends if one differs. Then they run in turns. The table shows medians: the time of a call, the
    speedup over eager and over torch.compile, the slowdown against copying the bytes that must be moved (in memory, and
    in the cache if they fit), and the memory allocated.
    """
    from rich.console import Console

    from betavae_fast.bench import machine
    from betavae_fast.bench.registry import get, parse_shape
    from betavae_fast.bench.results import check_writable
    from betavae_fast.bench.runner import check_seconds, run, too_large
    from betavae_fast.bench.table import shown
    from betavae_fast.bench.timing import BRIEF
    from betavae_fast.training.device import resolve_device
    from betavae_fast.training.process import set_threads

    console = Console(highlight=False)
    with usage_errors():
        for name, value in (("batch", batch), ("latent_dim", latent_dim)):
            at_least(1)(name, value)
        if not -(1 << 63) <= seed < 1 << 64:
            raise ValueError(f"seed must lie in [-2^63, 2^64), got {seed}")
        chosen = resolve_device(device)
        image_shape = parse_shape(image)
        if len(image_shape) != 3:
            raise ValueError(f"image is written CxHxW, for example 1x64x64, got {image!r}")
        if out is not None:
            check_writable(out)
        set_threads(threads)
    if machine.busy():
        console.print("[yellow]Other programs keep this machine busy, so the figures may be wrong.[/]")
    shape = (batch, *image_shape) if op.endswith("_nll") else (batch, latent_dim)
    entry = get(op)
    if why := entry.unfit(shape) or too_large(shape, chosen):
        raise CommandError(f"{op} {shape} {dtype} {why}")
    if (minutes := round(check_seconds(entry, shape, dtype, chosen) / 60)) > 1:
        console.print(f"The comparison with the formula alone takes about {minutes} minutes.")
    *_, results = run(
        entry,
        [shape],
        [dtype],
        chosen,
        origin=machine.provenance(shlex.join(["betavae-fast", *sys.argv[1:]]), chosen),
        effort=BRIEF,
        seed=seed,
        watch=console.status,
    )
    if results.failures:
        raise CommandError(f"no time is reported, parity failed: {'; '.join(results.failures)}", exit_code=1)
    console.print(shown(results))
    if out is not None:
        results.save(out)
        console.print(f"Written to {out}", soft_wrap=True, markup=False)

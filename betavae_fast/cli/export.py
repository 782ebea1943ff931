"""``betavae-fast export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from betavae_fast.choices import ExportFormat, PixelType
from betavae_fast.cli.errors import usage_errors
from betavae_fast.cli.options import Checkpoint


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="onnx: for ONNX Runtime and others; needs onnx, onnxscript and onnxruntime. pt2: programs of "
            "torch.export. hub: a folder for the Hugging Face Hub, with a model card; required."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files, new or empty.")] = Path("exported"),
    input: Annotated[
        PixelType | None,
        typer.Option(
            help="Pixels that the encoder of onnx and pt2 takes: float32 in [0, 1], or uint8 from 0 to 255.",
            show_default="float",
        ),
    ] = None,
    checkpoint: Checkpoint = "latest",
    license: Annotated[
        str | None,
        typer.Option(
            help="License that the model card of hub names, by the Hub's name for it.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Write the model for other programs: encoder and decoder as ONNX or torch.export, or a folder for the Hugging Face
    Hub.

    The encoder takes images (B, C, H, W) to mu and logvar, (B, D) each; the decoder takes z (B, D) to the expected
    images. The batch may have any size. Both are compared with the model before they are written. The model card says
    how the run was trained and, if it is evaluated, what it has learned. The data are not read.
    """
    from rich.console import Console

    from betavae_fast.export import write_hub, write_onnx, write_pt2
    from betavae_fast.training.run_folder import check_empty
    from betavae_fast.training.trained_run import open_run

    console = Console(highlight=False, markup=False, soft_wrap=True)
    with usage_errors():
        if format == "hub" and input is not None:
            raise ValueError(f"input is for onnx and pt2, a model of the Hub takes both; got {input} for hub")
        if format != "hub" and license is not None:
            raise ValueError(f"license is for the card of hub, got {license!r} for {format}")
        check_empty(out)
        trained = open_run(run, "cpu", kept=checkpoint)
        console.print(f"Run: {trained.folder.path}, after step {trained.step}")
        if format == "hub":
            files = write_hub(trained, out, license=license)
        else:
            write = write_onnx if format == "onnx" else write_pt2
            files = write(trained.model, out, pixels=input or "float")
    for file in files:
        console.print(f"{file}, {file.stat().st_size:,} bytes")

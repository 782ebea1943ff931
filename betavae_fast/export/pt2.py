"""Writes a model as programs of torch.export."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch

from betavae_fast.choices import PixelType
from betavae_fast.export.programs import check, programs
from betavae_fast.files import atomic_writer
from betavae_fast.nn import BetaVAE


def write_pt2(model: BetaVAE, folder: str | os.PathLike[str], *, pixels: PixelType = "float") -> list[Path]:
    """Write encoder.pt2 and decoder.pt2, which ``torch.export.load`` reads without this library.

    Both compute on the CPU in float32, for a batch of any size. Both are loaded again and compared with the model before
    anything is written.

    Args:
        folder: the folder, which is made if missing.
        pixels: the encoder's input: "float", float32 in [0, 1], or "uint8", from 0 to 255.
    Returns: the two paths. The encoder takes images (B, C, H, W) to mu and logvar, (B, D) each, with the model's
        ``logvar_range`` applied. The decoder takes z (B, D) to the expected images (B, C, H, W).
    Raises: ValueError if a loaded program differs from the model; OSError if nothing can be written there.

    >>> import tempfile
    >>> encoder, _ = write_pt2(BetaVAE((1, 8, 8), 3), tempfile.mkdtemp())
    >>> mu, logvar = torch.export.load(encoder).module()(torch.zeros(4, 1, 8, 8))
    >>> mu.shape
    torch.Size([4, 3])
    """
    contents = {}
    for program in programs(model, pixels):
        path = Path(folder) / f"{program.name}.pt2"
        buffer = io.BytesIO()
        torch.export.save(program.exported, buffer)
        contents[path] = buffer.getvalue()
        buffer.seek(0)
        check(path.name, program, torch.export.load(buffer).module())
    for path, content in contents.items():
        with atomic_writer(path) as file:
            file.write(content)
    return list(contents)

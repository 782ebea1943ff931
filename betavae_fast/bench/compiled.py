"""torch.compile as a contender."""

from __future__ import annotations

import os
import shutil
import sys

import torch
from torch import Tensor

from betavae_fast.bench.registry import Forward, Outputs


def compiled(eager: Forward, mode: str | None) -> Forward:
    """Compile ``eager`` separately for each shape that it is called with."""
    function = torch.compile(eager, mode=mode, fullgraph=True, dynamic=False)
    if mode is None:
        return function

    def replay(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
        """Mark the start of a new step: these modes replay CUDA graphs, which overwrite the last step's outputs."""
        torch.compiler.cudagraph_mark_step_begin()
        return function(inputs, noise)

    return replay


def no_compiler(device: str) -> str:
    """The reason why torch.compile cannot run on ``device`` here, or ""."""
    default = "clang++" if sys.platform == "darwin" else "g++"
    if device == "cpu" and not shutil.which(cxx := os.environ.get("CXX", default)):  # as torch looks for it
        return f"torch.compile needs a C++ compiler, and {cxx} was not found"
    return ""

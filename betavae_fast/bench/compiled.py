"""torch.compile as a contender."""

from __future__ import annotations

import os
import shutil
import sys

import torch
from torch import Tensor

from betavae_fast.bench.registry import Forward, Outputs


def compiled(eager: Forward, mode: str | None) -> Forward:
    """``eager`` compiled for the shapes it will see."""
    function = torch.compile(eager, mode=mode, fullgraph=True, dynamic=False)
    if mode is None:
        return function

    def replay(inputs: tuple[Tensor, ...], noise: Tensor | None) -> Outputs:
        """These modes replay CUDA graphs, which reuse the last step's outputs: say that a new one begins."""
        torch.compiler.cudagraph_mark_step_begin()
        return function(inputs, noise)

    return replay


def no_compiler(device: str) -> str:
    """Why torch.compile cannot run on ``device`` here, or ""."""
    default = "clang++" if sys.platform == "darwin" else "g++"
    if device == "cpu" and not shutil.which(cxx := os.environ.get("CXX", default)):  # as torch looks for it
        return f"torch.compile needs a C++ compiler, and {cxx} was not found"
    return ""

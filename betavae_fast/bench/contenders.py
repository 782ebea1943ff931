"""The contenders that ops share: eager code through torch.compile, and our backends."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from betavae_fast.bench.registry import Contender, Forward, Outputs
from betavae_fast.ops.backends import missing

# The reference computes in float64 with dozens of temporaries; larger problems would only take longer.
REFERENCE_MAX_ELEMENTS = 1 << 21
# Our backends by device type; each op has the reference beside them.
BACKENDS = {"cpu": ("cpp",), "cuda": ("triton", "cuda")}
_MODES: dict[str, str | None] = {
    "compile": None,
    "compile-reduce-overhead": "reduce-overhead",
    "compile-max-autotune": "max-autotune",
}


def through_compiler(
    eager: Forward, device: str, *, max_elements: int | None = None
) -> tuple[Contender, ...]:
    """Eager code through torch.compile; on a GPU in its slower modes, too, which take part on request only."""
    return tuple(
        Contender(
            name,
            partial(compiled, eager, mode),
            missing=no_compiler(device),
            max_elements=max_elements,
            on_request=mode is not None,
        )
        for name, mode in _MODES.items()
        if mode is None or device == "cuda"
    )


def of_backends(ours: Callable[..., Outputs], device: str, most: int | None) -> tuple[Contender, ...]:
    """The reference, up to ``most`` elements, and the other backends; ``ours`` takes the backend's name first."""
    return tuple(
        Contender(
            backend,
            partial(partial, ours, backend),
            ours=True,
            missing=missing(backend),
            max_elements=most if backend == "reference" else None,
        )
        for backend in ("reference", *BACKENDS[device])
    )


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

"""The contenders of the spatial benchmark compute the same in both memory formats, and get inputs of the format in their
name.
"""

from __future__ import annotations

import pytest
import torch

from betavae_fast.bench import parity
from betavae_fast.bench.registry import get
from betavae_fast.bench.runner import line_up

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["spatial", "spatial_channels_last"])
@pytest.mark.parametrize("shape", [(6, 4, 8, 8), (4, 4, 4, 8, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_contenders_agree(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    op = get(name)
    problem = op.setup(shape, dtype, CPU, 0)
    forwards = {c: f for c, f in line_up(op, shape, CPU)[1].items() if c.name != "compile"}
    assert {"eager", "DiagonalGaussian"} <= {contender.name for contender in forwards}
    assert parity.check(op, problem, forwards)


@pytest.mark.parametrize("shape", [(6, 4, 8, 8), (4, 4, 4, 8, 8)], ids=str)
def test_the_formats_are_what_they_say(shape: tuple[int, ...]) -> None:
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    for name, memory_format in (("spatial", torch.contiguous_format), ("spatial_channels_last", last)):
        problem = get(name).setup(shape, torch.float32, CPU, 0)
        for x in (*problem.inputs, problem.output_grads[0], problem.noise):
            assert x.is_contiguous(memory_format=memory_format)
        assert problem.inputs[0].shape == (shape[0], 2 * shape[1], *shape[2:])

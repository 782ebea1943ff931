"""The compiled code of the pass in which the last program adds up the sums of all, for GPUs that need not be present."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from benchmarks.machine_code.triton import CAPABILITIES, Launch, compiled, launches_of, read
from betavae_fast.ops.triton import bias_relu
from tests.ops.triton.launches import empty

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
)

HIDDEN: dict[str, Callable[[torch.dtype], Tensor]] = {
    "channels last": lambda dtype: empty(64, 32, 32, 32, dtype=dtype).to(memory_format=torch.channels_last),
    "contiguous": lambda dtype: empty(64, 32, 32, 32, dtype=dtype),
    "features": lambda dtype: empty(64, 256, dtype=dtype),
}


def backward(x: Tensor) -> Launch:
    (launch,) = launches_of(
        lambda: bias_relu.bias_relu_backward(x, x, empty(1, dtype=torch.int32), torch.float32)
    )
    return launch


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kind", ["channels last", "contiguous"])
def test_partial_sums_are_read_after_all_have_been_written(kind: str, capability: int) -> None:
    """The code has a store, a barrier, an atomic addition that releases and acquires, a barrier, and loads past the
    first-level cache.
    """
    ptx = compiled(backward(HIDDEN[kind](torch.float32)), capability).asm["ptx"]
    steps = re.findall(r"bar\.sync|atom[.\w:]*|st\.global\.[\w.]+|ld\.global\.cg", ptx)
    at = [step.startswith("atom") for step in steps].index(True)
    assert {"gpu", "acq_rel", "add"} <= set(steps[at].split("."))
    before, after = steps[:at], steps[at + 1 :]
    assert before[-1] == "bar.sync" and before[-2].startswith("st.global")
    assert after[0] == "bar.sync" and "ld.global.cg" in after
    assert "ld.global.cg" not in before and not any(step.startswith("atom") for step in after)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tiles_move_16_bytes_at_a_time_and_enough_programs_fit(dtype: torch.dtype, capability: int) -> None:
    """Three programs of 256 threads fit on a processor with 80 registers a thread."""
    for kind, hidden in HIDDEN.items():
        x = hidden(dtype)
        (forward,) = launches_of(lambda x=x: bias_relu.bias_relu_(x, empty(x.shape[1])))
        for found, tensors in zip(read([forward, backward(x)], capability), (1, 2), strict=True):
            wide = lambda name, found=found: sum(o.endswith(".128") for o in found.opcodes(name))
            accesses = 16 * x.element_size() // 16  # accesses of each tensor, for the 16 elements of a thread
            assert wide("LDG") >= tensors * accesses and wide("STG") == accesses, kind
            assert found.registers <= 80 and found.stack <= 8, (kind, found.registers, found.stack)

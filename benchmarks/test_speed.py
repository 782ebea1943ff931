"""Runs the registry under pytest-benchmark, to compare each contender with itself at another commit.

``python -m pytest benchmarks --benchmark-only`` runs it, ``--benchmark-autosave`` and ``--benchmark-compare`` save and
compare, ``-k "65536x128 and fp32 and cpp"`` chooses problems. It measures the CPU only, because pytest-benchmark uses the
host's clock. For ratios between contenders use ``python -m benchmarks``, which interleaves them. No time is asserted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from betavae_fast.bench import parity
from betavae_fast.bench.registry import DIRECTIONS, DTYPES, Direction, Forward, Problem, Shape, get, op_names
from betavae_fast.bench.runner import line_up, task

pytest.importorskip("pytest_benchmark")

CPU = torch.device("cpu")
PROBLEMS = [
    pytest.param(name, shape, dtype, id=f"{name}-{'x'.join(map(str, shape))}-{dtype}")
    for name in op_names()
    for shape in get(name).shapes["cpu"]
    for dtype in get(name).dtypes
]
CONTENDERS = list(dict.fromkeys(c.name for name in op_names() for c in get(name).contenders("cpu")))


@lru_cache(maxsize=1)
def _checked(name: str, shape: Shape, dtype: str) -> tuple[Problem, dict[str, Forward], dict[str, str]]:
    """Make the problem and check the parity of its contenders, before any of them is timed on it."""
    op = get(name)
    problem = op.setup(shape, DTYPES[dtype], CPU, 0)
    absent, forwards = line_up(op, shape, CPU)
    parity.check(op, problem, forwards)
    return problem, {c.name: f for c, f in forwards.items()}, absent


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("name", "shape", "dtype"), PROBLEMS)
def test_speed(
    benchmark: Any, name: str, shape: Shape, dtype: str, direction: Direction, contender: str
) -> None:
    problem, forwards, absent = _checked(name, shape, dtype)
    if contender not in forwards:
        pytest.skip(absent.get(contender, f"{name} has no contender {contender}"))
    timed = task(direction, contender, problem, forwards[contender], max_calls=1)
    benchmark.group = f"{name} {shape} {dtype} {direction}"
    benchmark.extra_info["bytes"] = get(name).cost_of(direction).bytes(shape, DTYPES[dtype])
    if direction == "backward":  # each call needs a forward pass of its own
        benchmark.pedantic(timed.call, setup=lambda: ((timed.prepare(),), {}), rounds=20, warmup_rounds=2)
    else:
        benchmark(timed.call, None)

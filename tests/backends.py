"""The backends that the tests of an op run on, and their settings."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from betavae_fast.ops.backends import missing

ROOT = Path(__file__).resolve().parent.parent
CPU_CAPABILITIES = ("baseline", "avx2", "avx512")


def available_backends(*names: str) -> list[Any]:
    """The pytest parameters of the backends that run on CPU tensors, by default all that need no interpreter.

    A missing backend is skipped with the reason.
    """
    return [
        pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=reason))
        for name in names or ("reference", "eager", "cpp")
        for reason in (missing(name),)
    ]


def assert_same_sum(actual: Tensor, expected: Tensor, backend: str) -> None:
    """Assert the same bits. The last bits of the eager backend may differ, because it adds up in the order of memory, as
    torch does.
    """
    rtol = 1e-6 if backend == "eager" else 0
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=0, equal_nan=True)


def fresh_process(
    *arguments: str, directory: Path = ROOT, timeout: float = 300, **environment: str | None
) -> subprocess.CompletedProcess[str]:
    """Start a new interpreter with ``arguments`` that finds this checkout. A value of None unsets an environment
    variable.
    """
    env = {**os.environ, **{k: v for k, v in environment.items() if v is not None}}
    env["PYTHONPATH"] = environment.get("PYTHONPATH") or str(ROOT)
    for name in (k for k, v in environment.items() if v is None):
        env.pop(name, None)
    return subprocess.run(
        [sys.executable, *arguments], env=env, cwd=directory, capture_output=True, text=True, timeout=timeout
    )


@cache
def cpu_capability_under(capability: str) -> str:
    """The instruction set that the C++ backend chooses if ``capability`` is requested."""
    ask = "from betavae_fast.ops.backends import cpu_capability; print(cpu_capability())"
    return fresh_process("-c", ask, BETAVAE_FAST_CPU_CAPABILITY=capability).stdout.strip()


def require_cpu_capability(capability: str) -> None:
    """Skip the test if the C++ backend is missing or this CPU lacks the instruction set."""
    if reason := missing("cpp"):
        pytest.skip(reason)
    if (chosen := cpu_capability_under(capability)) != capability:
        pytest.skip(f"this CPU does not run {capability}: the C++ backend chose {chosen} instead")

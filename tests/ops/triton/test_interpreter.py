"""The tests in interpreted/, run under TRITON_INTERPRET=1, which must be set before Triton is imported."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import PATIENCE
from tests.backends import fresh_process

pytest.importorskip("triton")

MODULES = (
    "test_parity",
    "test_noise",
    "test_error",
    "test_likelihood",
    "test_log_densities",
    "test_kl_parts",
    "test_bias_relu",
)


def test_interpreted() -> None:
    """All tests run at once, because a single process takes minutes, however many cores there are."""
    run = lambda module: fresh_process(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/ops/triton/interpreted/{module}.py"),
        timeout=PATIENCE,
        TRITON_INTERPRET="1",
    )
    with ThreadPoolExecutor(len(MODULES)) as pool:
        runs = list(pool.map(run, MODULES))
    assert all(run.returncode == 0 for run in runs), "".join(
        run.stdout[-8000:] + run.stderr[-2000:] for run in runs
    )

"""Sweeps of four tiny runs, and what their tests share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests import PATIENCE

AXES = ["--beta=1,4", "--lr=0.001,0.002"]


def options(data: Path) -> list[str]:
    return [
        f"--data={data}",
        *AXES,
        "--steps=30",
        "--batch-size=8",
        "--latent-dim=3",
        "--log-every=5",
        "--checkpoint-every=5",
        "--precision=fp32",
        "--metrics=unsupervised",
        "--jobs=2",
    ]


def command(arguments: list[str], out: Path) -> list[str]:
    return [sys.executable, "-m", "betavae_fast", "sweep", *arguments, f"--out={out}"]


def run(arguments: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(arguments, out), capture_output=True, text=True, timeout=4 * PATIENCE)


def weights(out: Path) -> dict[str, dict[str, np.ndarray]]:
    return {
        str(path.parent.parent.name): load_file(path)
        for path in sorted(out.glob("*/checkpoint/*.safetensors"))
        if "model" in path.name
    }


def assert_the_same(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys() and first
    for name, tensors in first.items():
        assert all(np.array_equal(tensor, second[name][key]) for key, tensor in tensors.items())
    for file in ("runs.csv", "report.html"):
        assert (one / file).read_bytes() == (two / file).read_bytes()


def children(pid: int) -> list[int]:
    """The processes that descend from ``pid``, the youngest generation first."""
    found = []
    for child in (
        Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if Path(f"/proc/{pid}").exists() else ()
    ):
        found += [*children(int(child)), int(child)]
    return found

"""Prints the machine and its versions, and checks each of our ops against float64 on it, in half a minute.

python -m benchmarks.first_look --device cuda
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence

import torch

from benchmarks.arguments import add_device, parser_of
from betavae_fast.bench import machine
from betavae_fast.bench.registry import Op, get, op_names
from betavae_fast.bench.runner import leave_out_wrong, line_up

PACKAGES = ("setuptools", "numpy", "pytest", "pytest-xdist", "pythae")
SHAPES = {"latent": (257, 33), "log_densities": (67, 10)}
IMAGES = (17, 1, 9, 8)  # shape of a likelihood's problem
# A single kind of target, which every likelihood takes, because Triton compiles each kind for a second or more.
KIND = "-uint8"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks. Returns: 1 if one of our ops fails or computes something else, else 0."""
    parser = parser_of("benchmarks.first_look", __doc__)
    add_device(parser)
    device = torch.device(parser.parse_args(argv).device)
    others = {package: machine.installed(package) for package in PACKAGES}
    for name, value in (machine.describe(device) | machine.versions() | others).items():
        print(f"{name}: {value}")
    if shutil.which("nvidia-smi"):
        subprocess.run(("nvidia-smi",), check=False)
    sys.stdout.flush()
    # One op after the other: if a kernel makes the GPU unusable, the results of the ops before it are already printed.
    return max(_check(get(name), device) for name in op_names())


def _check(op: Op, device: torch.device) -> int:
    shape = SHAPES.get(op.name, IMAGES)
    problem = op.setup(shape, torch.float32, device, 0)
    ours = [
        c.name
        for c in op.contenders(device.type)
        if c.ours and c.name != "reference" and ("-" not in c.name or c.name.endswith(KIND))
    ]
    absent, forwards = line_up(op, shape, device, ours)
    _, failed = leave_out_wrong(op, problem, forwards)
    agree = ", ".join(contender.name for contender in forwards) or "nobody"
    print(f"{op.name} {shape} fp32: {agree} within the error budget", flush=True)
    failed |= {name: why for name, why in absent.items() if name in ours}
    for name, why in failed.items():
        print(f"FAILED {op.name} {shape} fp32: {name}: {why}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

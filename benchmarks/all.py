"""Runs the benchmarks of this machine's CPU, each of which writes its file: ``python -m benchmarks.all`` (`make bench`).

They take about 50 minutes on two cores. One that fails does not keep the others from running; the last lines name it.
"""

from __future__ import annotations

import shlex
import subprocess
import sys

from benchmarks import ROOT
from benchmarks.arguments import parser_of
from betavae_fast.cli.errors import INTERRUPTED

COMMANDS = (
    "benchmarks latent",
    "benchmarks latent_scaling --brief",
    "benchmarks spatial --brief",
    "benchmarks spatial_channels_last --brief",
    "benchmarks bernoulli_nll --brief",
    "benchmarks gaussian_nll --brief",
    "benchmarks laplace_nll --brief",
    "benchmarks log_densities",
    "benchmarks.latency",
    "benchmarks.floors",
    "benchmarks.scaling",
    "benchmarks.encode",
    "benchmarks.step --samples 3 --contenders compile pythae ours 'ours, bf16'",
    "benchmarks.time_to_loss",
    "benchmarks.fallback",
    "benchmarks.busy",
    "benchmarks.sweep",
)


def main() -> int:
    parser_of("benchmarks.all", __doc__).parse_args()
    failed = []
    for command in COMMANDS:
        print(f"\n== python -m {command}", flush=True)
        status = subprocess.run((sys.executable, "-m", *shlex.split(command)), cwd=ROOT).returncode
        if status == INTERRUPTED:
            return status
        if status:
            failed.append(command)
    for command in failed:
        print(f"FAILED python -m {command}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

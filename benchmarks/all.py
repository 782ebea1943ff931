"""Runs the benchmarks of this machine's CPU, each of which writes its file: ``python -m benchmarks.all`` (`make bench`).

They take about twenty minutes on two cores. The first failure ends the run.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import ROOT
from benchmarks.arguments import parser_of

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
    "benchmarks.scaling",
    "benchmarks.encode",
    "benchmarks.step --samples 3 --contenders pythae ours",
    "benchmarks.time_to_loss",
)


def main() -> int:
    parser_of("benchmarks.all", __doc__).parse_args()
    for command in COMMANDS:
        print(f"\n== python -m {command}", flush=True)
        if status := subprocess.run((sys.executable, "-m", *command.split()), cwd=ROOT).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""All there is to do on a machine with an NVIDIA GPU, in under ten minutes: ``python -m benchmarks.gpu``.

Builds the CUDA extension in place for the GPU that is there, runs the tests marked gpu, compute-sanitizer
where it is installed, and the benchmarks, whose results it writes into benchmarks/results/. A step that fails
or runs out of its time does not keep the others from running; the exit status is 0 only if none did. Nothing
is downloaded.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks import ROOT
from benchmarks.processes import started
from betavae_fast.bench.registry import op_names

BENCHMARK_SECONDS = 75  # of all ops together


@dataclass(frozen=True)
class Step:
    """A command, the seconds it may take, and what it needs from PATH."""

    name: str
    command: Sequence[str]
    limit: int
    environment: Mapping[str, str] = field(default_factory=dict)
    tool: str | None = None


@dataclass(frozen=True)
class Outcome:
    step: str
    verdict: str
    failed: bool
    seconds: float = 0.0


def steps(capability: tuple[int, int]) -> list[Step]:
    """In order; their limits add up to less than ten minutes."""
    python = sys.executable
    build = {"BETAVAE_FAST_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "{}.{}".format(*capability)}
    pytest = (python, "-m", "pytest", "tests", "-m", "gpu", "-q", "--continue-on-collection-errors")
    return [
        Step("build", (python, "setup.py", "build_ext", "--inplace"), 120, build),
        Step("gpu tests", pytest, 120),
        *(_sanitizer(python, tool) for tool in ("memcheck", "racecheck")),
        *(_benchmark(python, op, BENCHMARK_SECONDS // len(op_names())) for op in op_names()),
        Step(
            "training step benchmark",
            (python, "-m", "benchmarks.step", "--device", "cuda", "--samples", "5"),
            110,
        ),
    ]


def run(step: Step) -> Outcome:
    """Run one step to its end or its limit, with everything it started."""
    if step.tool is not None and shutil.which(step.tool) is None:
        return Outcome(step.name, f"left out: {step.tool} is not on PATH", failed=False)
    print(f"\n== {step.name} (at most {step.limit} s)", flush=True)
    start = time.monotonic()
    with started(step.command, ROOT, {"PYTHONUNBUFFERED": "1", **step.environment}) as process:
        try:
            status = process.wait(step.limit)
            verdict = "passed" if status == 0 else f"failed with exit status {status}"
        except subprocess.TimeoutExpired:
            status, verdict = 1, f"stopped after its {step.limit} s"
    return Outcome(step.name, verdict, failed=status != 0, seconds=time.monotonic() - start)


def summary(outcomes: Sequence[Outcome]) -> str:
    width = max(len(o.step) for o in outcomes)
    return "\n".join(f"{o.step:{width}}  {o.seconds:5.0f} s  {o.verdict}" for o in outcomes)


def main() -> int:
    if not torch.cuda.is_available():
        print(f"No NVIDIA GPU here: torch {torch.__version__} sees no CUDA device. Nothing was run.")
        return 1
    major, minor = torch.cuda.get_device_capability()
    print(f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}, torch {torch.__version__}")
    outcomes = [run(step) for step in steps((major, minor))]
    print(f"\n{summary(outcomes)}")
    return int(any(o.failed for o in outcomes))


def _sanitizer(python: str, tool: str) -> Step:
    # torch's allocator would hide an access beyond a tensor inside its own blocks.
    options = ("--error-exitcode", "1", "--report-api-errors", "no")
    return Step(
        tool,
        ("compute-sanitizer", "--tool", tool, *options, python, "-m", "benchmarks.sanitize"),
        60,
        {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        tool="compute-sanitizer",
    )


def _benchmark(python: str, op: str, seconds: int) -> Step:
    command = (python, "-m", "benchmarks", op, "--device", "cuda", "--time-limit", str(seconds))
    return Step(f"{op} benchmark", command, seconds + 10)


if __name__ == "__main__":
    sys.exit(main())

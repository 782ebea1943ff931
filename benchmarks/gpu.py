"""Runs all measurements and tests for an NVIDIA GPU: ``python -m benchmarks.gpu``, in two calls of 480 and 230 seconds.

    python -m benchmarks.gpu --call first --out FOLDER
    python -m benchmarks.gpu --call second --out FOLDER
    python -m benchmarks.gpu --rehearse                    # both on a CPU: the same commands, tiny

The commands (lines) run in the order of their importance, each with its own time limit. Everything found is on disk at
once: in the folder (log.txt, summary.json, and at most six result files per call); the results are also under
benchmarks/results/. A line that fails or is stopped keeps the results it has, and the others still run. The last lines
printed name everything that failed; the exit status is 0 only if nothing failed. Nothing is downloaded. The extension is
built only if its CUDA library is missing or does not run.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks import RESULTS, ROOT
from benchmarks.arguments import command, parser_of, writable_folder
from benchmarks.lines import Line, Record, run_all
from betavae_fast.bench import machine
from betavae_fast.ops.backends import missing

CALL_SECONDS = {"first": 480.0, "second": 230.0}
# The most informative sizes of each op, which are measured.
HEADLINES = {
    "latent": ((1 << 20, 64), (4096, 10), (64, 10)),
    "bernoulli_nll": ((16384, 1, 64, 64),),
    "log_densities": ((2048, 10), (8192, 10)),
}
STEP_BATCHES = (64, 4096, 512, 16384)
_BUILD_SECONDS = 120.0
# Seconds in which pytest writes its report after SIGINT. With workers it does so in two of three runs; the log has the
# result of each test in any case.
_PYTEST_GRACE = 15.0
# A rehearsal multiplies the time limits by this factor, because its cores may be busy with other programs.
_PATIENCE_OF_A_REHEARSAL = 4


@dataclass(frozen=True)
class Place:
    """The device and the folders of the lines. On a GPU they run in full, in a rehearsal as briefly as possible.

    Args:
        out: a folder for the results of each line.
        scratch: a folder that is removed afterwards.
    """

    device: str
    out: Path
    scratch: Path

    @property
    def tiny(self) -> bool:
        return self.device == "cpu"

    @property
    def images(self) -> Path:
        """The file of the images that a rehearsal trains on."""
        path = self.scratch / "tiny.npy"
        if not path.exists():
            np.save(path, np.random.default_rng(0).random((256, 8, 8)) < 0.2)
        return path

    def result(self, folder: str, prefix: str = "") -> Path:
        """The path for the copy of a result. In a rehearsal it lies in the scratch folder."""
        results = self.scratch / "results" if self.tiny else RESULTS
        return results / folder / f"{prefix}{machine.kind(torch.device(self.device))}.json"


def lines(place: Place) -> dict[str, list[Line]]:
    """The lines of each call, in their order. The limits of a call's lines add up to no more than the call's own.

    In a rehearsal they take the C++ kernels, tiny shapes and few steps.
    """
    tiny = place.tiny
    images = ("--data", str(place.images)) if tiny else ()
    trained = ("--tiny", "8", *images) if tiny else ()
    stepped = ("8", "--contenders", "ours") if tiny else map(str, STEP_BATCHES)
    # torch's allocator must not cache: an access beyond a tensor would stay inside a cached block and be missed.
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    sanitizer = ("compute-sanitizer", "--error-exitcode", "1", "--report-api-errors", "no", "--tool")
    auto = (
        "--batch-size",
        "auto",
        "--steps",
        "20",
        "--log-every",
        "10",
        "--out",
        str(place.scratch / "auto"),
    )
    return {
        "first": [
            _module(place, "first look", 35, "benchmarks.first_look"),
            _op(place, "latent", 70, "cuda", "triton"),
            _op(place, "bernoulli_nll", 35, "cuda-bits", "triton-bits"),
            _op(place, "log_densities", 40, "cuda", "triton"),
            _module(place, "training", 95, "benchmarks.training", *trained, writes="train"),
            _gpu_tests(place, 110),
            _module(
                place,
                "training step",
                95,
                "benchmarks.step",
                *("--samples", "2" if tiny else "3", "--batch-sizes", *stepped),
                writes="step",
            ),
        ],
        "second": [
            _module(
                place,
                "side by side",
                60,
                "benchmarks.side_by_side",
                *(("--tiny", "4", "--models", "1", "2") if tiny else ()),
                writes="side-by-side",
            ),
            _module(place, "tuning sweep", 45, "benchmarks.tuning", writes="tuning"),
            *(
                _under(place, name, limit, (*sanitizer, name), uncached)
                for name, limit in (("memcheck", 40), ("racecheck", 35))
            ),
            # The basic metrics of three kernels, into the log.
            _under(place, "ncu", 25, ("ncu", "--set", "basic", "--launch-count", "3", *_KERNELS), {}),
            _module(
                place,
                "batch size auto",
                25,
                "betavae_fast",
                *("train", *auto, *(("--architecture", "mlp", *images) if tiny else ())),
            ),
        ],
    }


_KERNELS = ("--kernel-name", "regex:forward|backward")


def _module(
    place: Place, name: str, limit: float, module: str, *options: str, writes: str = "", prefix: str = ""
) -> Line:
    """Run a module. If it writes a result, that lies in ``place.out``, and a copy among the results.

    Args:
        writes: name of the result's file and of its folder.
        prefix: if given, the begin of the name of the copy, which then lies in no folder.
    """
    results = {}
    if writes:
        written = place.out / f"{writes}.json"
        results[written] = place.result("" if prefix else writes, prefix)
        options = (*options, "--out", str(written))
    command = (sys.executable, "-m", module, *options, "--device", place.device)
    return Line(name, command, limit, results=results)


def _op(place: Place, op: str, limit: float, *ours: str) -> Line:
    """Measure one op. torch.compile runs in its default mode only, because the others compile for too long."""
    options, plain = ["--brief"], ["eager", "compile"]
    shapes = ["x".join(map(str, shape)) for shape in HEADLINES[op]]
    if place.tiny:
        options, plain = ["--quick", "--dtypes", "fp32"], ["eager"]
        shapes = ["16x1x4x4" if op.endswith("_nll") else "16x3"]
        ours = tuple(name.replace("cuda", "cpp") for name in ours if name.startswith("cuda"))
    options += ["--shapes", *shapes, "--contenders", *plain, *ours]
    return _module(place, op, limit, "benchmarks", op, *options, writes=op, prefix=f"{op}-")


def _gpu_tests(place: Place, limit: float) -> Line:
    """Run the tests marked gpu. ``-v`` names each failure at once; workers share the compilation on the CPU."""
    chosen = ("tests/benchmarks/test_processes.py",) if place.tiny else ("tests", "-m", "gpu")
    workers = ("-n", str(min(14, os.cpu_count() or 1)), "--dist", "worksteal") if find_spec("xdist") else ()
    report = f"--junitxml={place.out / 'gpu-tests.xml'}"
    options = ("-v", "--tb=short", "-p", "no:cacheprovider", "--continue-on-collection-errors", report)
    line = (sys.executable, "-m", "pytest", *chosen, *workers, *options)
    return Line("gpu tests", line, limit, interrupted_for=_PYTEST_GRACE)


def _under(place: Place, name: str, limit: float, tool: Sequence[str], environment: dict[str, str]) -> Line:
    """Run all kernels briefly under a tool; a rehearsal runs them without the tool."""
    line = (sys.executable, "-m", "benchmarks.sanitize", "--device", place.device)
    if place.tiny:
        return Line(name, line, limit, environment)
    absent = "" if shutil.which(tool[0]) else f"{tool[0]} is not on PATH"
    return Line(name, (*tool, *line), limit, environment, missing=absent)


def build(capability: tuple[int, int]) -> Line:
    """Build the CUDA library, unless there is one that runs, for example one that was built on another machine."""
    environment = {"BETAVAE_FAST_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "{}.{}".format(*capability)}
    why = "" if missing("cuda") else "the library exists and runs"
    command = (sys.executable, "setup.py", "build_ext", "--inplace")
    return Line("build", command, _BUILD_SECONDS, environment, missing=why)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = parser_of("benchmarks.gpu", __doc__)
    parser.add_argument("--call", choices=CALL_SECONDS, help="run only this call; default: both")
    parser.add_argument("--out", type=writable_folder, help="default: build/gpu")
    parser.add_argument(
        "--rehearse", action="store_true", help="run a tiny version of every line on the CPU, as a check"
    )
    args = parser.parse_args(arguments)
    if not (args.rehearse or torch.cuda.is_available()):
        print(f"No NVIDIA GPU here: torch {torch.__version__} sees no CUDA device. Nothing was run.")
        return 1
    out = (args.out or writable_folder(str(ROOT / "build" / "gpu"))).resolve()
    device = "cpu" if args.rehearse else "cuda"
    with tempfile.TemporaryDirectory(prefix="betavae-fast-gpu-") as scratch:
        place = Place(device, out, Path(scratch))
        patience = _PATIENCE_OF_A_REHEARSAL if args.rehearse else 1
        calls = {
            name: [replace(line, limit=patience * line.limit) for line in found]
            for name, found in lines(place).items()
            if args.call in (None, name)
        }
        if not args.rehearse:
            first = next(iter(calls))
            calls[first].insert(0, build(torch.cuda.get_device_capability()))
        about = machine.provenance(command("benchmarks.gpu", arguments), torch.device(device))
        record = Record(out, [line for found in calls.values() for line in found], about)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # acts like Ctrl-C
        try:
            for name, found in calls.items():
                run_all(found, record, patience * CALL_SECONDS[name])
        except KeyboardInterrupt:
            print("interrupted")
        finally:
            signal.signal(signal.SIGTERM, before)
            print(f"\n{record.text()}", flush=True)
    return int(record.failed)


if __name__ == "__main__":
    sys.exit(main())

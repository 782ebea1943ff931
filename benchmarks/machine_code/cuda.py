"""Reads from nvcc's reports and machine code the registers, stack, load widths and instructions of the CUDA kernels.

    python -m benchmarks.machine_code.cuda [op ...]

writes benchmarks/budgets/cuda_*.json anew. Do so after a change that is worth its cost, and say why.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import ROOT
from benchmarks.machine_code import sass

SOURCES = {
    "latent": ("latent_forward", "latent_backward", "reduce"),
    "likelihood": ("likelihood_forward", "likelihood_backward"),
    "log_densities": tuple(f"log_densities_{part}" for part in ("prepare", "forward", "backward")),
}
ARCHS = ("sm_80", "sm_90", "sm_100")
FLAGS = (
    "-std=c++17",
    "-O3",
    "--fmad=false",
    "-Werror=all-warnings",
    "-Xcompiler=-Wall,-Wextra",
    "-cubin",
    "-Xptxas=-v",
)

Figures = dict[str, dict[str, Any]]


class Compiled(NamedTuple):
    """A kernel's resources and its instructions."""

    resources: dict[str, int]  # registers, stack, spills; bytes of shared memory
    code: sass.Code


def budget_file(op: str) -> Path:
    return ROOT / "benchmarks" / "budgets" / f"cuda_{op}.json"


def _names(mangled: Iterable[str]) -> dict[str, str]:
    """The short names, such as ``forward<float, true, true, (Reduction)1>``, by mangled name."""
    mangled = list(mangled)
    full = subprocess.run(
        ["c++filt", *mangled], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    short = (
        re.sub(r"betavae_fast::|cuda::|\(anonymous namespace\)::|^void ", "", name).rsplit("(", 1)[0]
        for name in full
    )
    return dict(zip(mangled, short, strict=True))


def _resources(report: str) -> dict[str, dict[str, int]]:
    pattern = (
        r"entry function '(\w+)'[\s\S]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r"[\s\S]*?Used (\d+) registers(?:.*, (\d+) bytes smem)?"
    )
    return {
        mangled: {
            "registers": int(registers),
            "shared_bytes": int(shared or 0),
            "stack": int(stack),
            "spills": int(stores) + int(loads),
        }
        for mangled, stack, stores, loads, registers, shared in re.findall(pattern, report)
    }


@cache
def compile_source(source: str, arch: str) -> dict[str, Compiled]:
    """Compile the kernels of one file. Warnings are errors."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / f"{source}.cubin"
        at = ROOT / "csrc" / "cuda" / f"{source}.cu"
        command = ["nvcc", *FLAGS, f"-arch={arch}", str(at), "-o", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{source}.cu, {arch}: {done.stderr}{done.stdout}")
        resources = _resources(done.stderr + done.stdout)
        codes = sass.kernels(cubin)
    names = _names(codes)
    return {names[mangled]: Compiled(resources[mangled], code) for mangled, code in codes.items()}


def compile_op(op: str, arch: str) -> dict[str, Compiled]:
    """Compile all kernels of an op, two files at a time; each file is compiled once in a process."""
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(compile_source, SOURCES[op], [arch] * len(SOURCES[op]))
        return {name: kernel for part in parts for name, kernel in part.items()}


def _figures(kernel: Compiled) -> dict[str, Any]:
    text = "\n".join(instruction for _, instruction in kernel.code)
    return kernel.resources | {
        "ffma": len(re.findall(r"\bFFMA\b", text)),
        "local_memory": len(re.findall(r"\b(LDL|STL)\b", text)),
        "loads_16": len(re.findall(r"\bLDG\.E\.128", text)),
        "loads_8": len(re.findall(r"\bLDG\.E\.64", text)),
        "stores_16": len(re.findall(r"\bSTG\.E\.128", text)),
        "instructions": len(kernel.code),
        "loop": len(sass.once_round(kernel.code)) or None,
        "inner_loops": [
            {
                "instructions": len(sass.once_round(body)),
                "ffma": sum("FFMA" in text for _, text in body),
                "mufu": sum("MUFU" in text for _, text in body),
            }
            for body in sass.inner_loops(kernel.code)
        ],
    }


def measure(op: str, arch: str) -> Figures:
    return {name: _figures(kernel) for name, kernel in compile_op(op, arch).items()}


if __name__ == "__main__":
    if shutil.which("nvcc") is None or sass.cuobjdump() is None:
        sys.exit("nvcc or cuobjdump was not found")
    for op in sys.argv[1:] or SOURCES:
        lines = [
            f"  {json.dumps(arch)}: {{\n"
            + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in kernels.items())
            + "\n  }"
            for arch, kernels in ((arch, measure(op, arch)) for arch in ARCHS)
        ]
        budget_file(op).write_text("{\n" + ",\n".join(lines) + "\n}\n")

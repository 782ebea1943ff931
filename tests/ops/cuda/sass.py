"""What nvcc made of the kernels: registers, stack, load widths and instructions, read from its own reports.

    python -m tests.ops.cuda.sass [op ...]

writes benchmarks/budgets/cuda_*.json anew. Do so after a change that is worth its cost, and say why.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
SOURCES = {
    "latent": ("latent_forward", "latent_backward", "reduce"),
    "likelihood": ("likelihood_forward", "likelihood_backward"),
    "total_correlation": tuple(f"total_correlation_{part}" for part in ("prepare", "forward", "backward")),
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

Kernels = dict[str, dict[str, Any]]


def budget_file(op: str) -> Path:
    return ROOT / "benchmarks" / "budgets" / f"cuda_{op}.json"


def cuobjdump() -> str | None:
    """The disassembler: nvcc's own, or the one in Triton's package."""
    if found := shutil.which("cuobjdump"):
        return found
    spec = importlib.util.find_spec("triton")
    bundled = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump" if spec and spec.origin else None
    return str(bundled) if bundled and bundled.exists() else None


def _name(mangled: str) -> str:
    """``forward<float, true, true, (Kl)2>`` of the mangled name."""
    full = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    short = re.sub(r"betavae_fast::|cuda::|\(anonymous namespace\)::|^void ", "", full.strip())
    return short.rsplit("(", 1)[0]


def _resources(report: str) -> Kernels:
    kernels: Kernels = {}
    pattern = (
        r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers"
    )
    for mangled, stack, stores, loads, registers in re.findall(pattern, report, re.DOTALL):
        kernels[mangled] = {
            "registers": int(registers),
            "stack": int(stack),
            "spills": int(stores) + int(loads),
        }
    return kernels


def _jumps(code: list[tuple[int, str]]) -> dict[int, tuple[int, bool]]:
    """Where each jump leads, and whether it is conditional."""
    at = {address: i for i, (address, _) in enumerate(code)}
    return {
        i: (at[int(m[1], 16)], text.startswith("@"))
        for i, (_, text) in enumerate(code)
        if (m := re.search(r"\bBRA\b.* 0x([0-9a-f]+)$", text)) and int(m[1], 16) in at
    }


def _inner_loops(code: list[tuple[int, str]]) -> list[dict[str, int | None]]:
    """Those that hold no other: instructions once round, fused multiply-adds and special functions."""
    loops = [(to, i) for i, (to, _) in _jumps(code).items() if to < i]
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [code[start : end + 1] for start, end in inner]
    return [
        {
            "instructions": _once_round(body),
            "ffma": sum("FFMA" in text for _, text in body),
            "mufu": sum("MUFU" in text for _, text in body),
        }
        for body in bodies
    ]


def _once_round(code: list[tuple[int, str]]) -> int | None:
    """Instructions once round the main loop, by the shortest way with the most arithmetic and 16-byte accesses."""
    jumps = _jumps(code)
    backward = [(i - to, to, i) for i, (to, _) in jumps.items() if to < i]
    if not backward:
        return None
    _, start, end = max(backward)

    def worth(text: str) -> int:
        return 10 if re.search(r"(LDG|STG)\.E\.128", text) else "FFMA" in text

    best: dict[int, tuple[int, int]] = {end: (0, -1)}  # what it passes, and minus the instructions
    for i in range(end - 1, start - 1, -1):
        to, conditional = jumps.get(i, (i + 1, False))
        ways = [best[j] for j in {to, i + 1} if i < j <= end and j in best and (conditional or j == to)]
        if ways and not re.match(r"EXIT|RET", code[i][1]):
            passed, length = max(ways)
            best[i] = (passed + worth(code[i][1]), length - 1)
    return -best[start][1] if start in best else None


def _code(cubin: Path) -> dict[str, list[tuple[int, str]]]:
    listing = subprocess.run([cuobjdump(), "-sass", cubin], capture_output=True, text=True, check=True).stdout
    kernels: dict[str, list[tuple[int, str]]] = {}
    for line in listing.splitlines():
        if function := re.search(r"Function : (\w+)", line):
            kernels[function[1]] = code = []
        elif (found := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line)) and found[2] != "NOP":
            code.append((int(found[1], 16), found[2]))
    return kernels


def measure(source: str, arch: str) -> Kernels:
    """Compiles one file and reads what came out; a warning is an error."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / f"{source}.cubin"
        command = [
            "nvcc",
            *FLAGS,
            f"-arch={arch}",
            str(ROOT / "csrc/cuda" / f"{source}.cu"),
            "-o",
            str(cubin),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
        kernels = _resources(done.stderr + done.stdout)
        for mangled, code in _code(cubin).items():
            text = "\n".join(instruction for _, instruction in code)
            kernels[mangled] |= {
                "ffma": len(re.findall(r"\bFFMA\b", text)),
                "local_memory": len(re.findall(r"\b(LDL|STL)\b", text)),
                "loads_16": len(re.findall(r"\bLDG\.E\.128", text)),
                "loads_8": len(re.findall(r"\bLDG\.E\.64", text)),
                "stores_16": len(re.findall(r"\bSTG\.E\.128", text)),
                "instructions": len(code),
                "loop": _once_round(code),
                "inner_loops": _inner_loops(code),
            }
    return {_name(mangled): figures for mangled, figures in kernels.items()}


def measure_all(op: str, archs: tuple[str, ...]) -> dict[str, Kernels]:
    pairs = [(source, arch) for arch in archs for source in SOURCES[op]]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda pair: measure(*pair), pairs))
    return {
        a: {k: v for (_, b), r in zip(pairs, results, strict=True) if a == b for k, v in r.items()}
        for a in archs
    }


if __name__ == "__main__":
    if shutil.which("nvcc") is None or cuobjdump() is None:
        sys.exit("nvcc or cuobjdump was not found")
    for op in sys.argv[1:] or SOURCES:
        lines = [
            f"  {json.dumps(arch)}: {{\n"
            + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in kernels.items())
            + "\n  }"
            for arch, kernels in measure_all(op, ARCHS).items()
        ]
        budget_file(op).write_text("{\n" + ",\n".join(lines) + "\n}\n")

"""Compiles the Triton kernels without a GPU, with the arguments of real launches, and reads their assembly.

    python -m benchmarks.machine_code.triton [OP ...]

measures them anew and raises the committed budgets where they are exceeded; ``--reset`` replaces the budgets.
"""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import importlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from benchmarks.machine_code import sass
from betavae_fast.ops.operators import op_names

_BUDGETS = Path(__file__).resolve().parents[2] / "benchmarks" / "budgets"
# Op -> name -> function of a dtype that launches kernels. The launch measured is that of the kernel with which the name
# begins, or else the first.
_LAUNCHES = {op: importlib.import_module(f"benchmarks.machine_code.launches.{op}") for op in op_names()}
VARIANTS: dict[str, dict[str, Callable[[torch.dtype], None]]] = {
    op: launches.VARIANTS for op, launches in _LAUNCHES.items()
}
# Variants whose loads and stores of contiguous, aligned data must be 16 bytes wide.
FULL_WIDTH: tuple[str, ...] = sum((launches.FULL_WIDTH for launches in _LAUNCHES.values()), ())
CAPABILITIES = (80, 90, 100)
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Launch(NamedTuple):
    """A kernel, and the arguments and options of its call."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]


def launches_of(call: Callable[[], Any]) -> list[Launch]:
    """The launches of ``call``, in order. They are recorded but not run."""
    found: list[Launch] = []

    def record(kernel: Any, *positional: Any, grid: tuple[int, ...], warmup: bool, **keywords: Any) -> None:
        options = {name: value for name, value in keywords.items() if name not in kernel.arg_names}
        arguments = dict(zip(kernel.arg_names, positional, strict=False)) | keywords
        arguments = {name: value for name, value in arguments.items() if name not in options}
        found.append(Launch(kernel, grid, arguments, options))

    with mock.patch.object(JITFunction, "run", record):
        call()
    return found


class _Gpu:
    """Replaces the driver, for a GPU that need not exist.

    Triton's launcher keeps its compiled variants by device, so that each capability is a device here.
    """

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_device(self) -> int:
        return self._capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)


def compiled(launch: Launch, capability: int) -> Any:
    """The compiled variant that Triton's own launcher chooses."""
    with mock.patch.object(triton.runtime.driver, "_active", _Gpu(capability)):
        return launch.kernel.run(grid=launch.grid, warmup=True, **launch.arguments, **launch.options)


class Assembly(NamedTuple):
    """The assembly of one kernel variant for one GPU."""

    ptx: str
    instructions: sass.Code
    registers: int
    stack: int
    shared: int
    threads: int  # threads of a program
    fused: bool  # True if the compiler was allowed to fuse multiplications and additions
    elements: int  # elements of a tile per thread
    pairs: int  # pairs of a tile per thread; 0 for kernels without pairs

    def opcodes(self, prefix: str) -> list[str]:
        return [name for name in sass.opcodes(self.instructions) if name.startswith(prefix)]

    def loop(self) -> sass.Code:
        """The instructions of the longest loop, which is the loop over tiles."""
        return max(self._loops(), key=len, default=[])

    def _loops(self) -> list[sass.Code]:
        loops = []
        for end, text in self.instructions:
            if target := re.search(r"\bBRA(?:\.\w+)* .*?0x([0-9a-f]+)", text):
                loops.append([i for i in self.instructions if int(target[1], 16) <= i[0] <= end])
        return [loop for loop in loops if loop]

    def subroutines(self) -> int:
        """The number of subroutines, counted by returns: some assemblers leave a loop by a call that never returns."""
        return len(self.opcodes("RET"))

    def spills(self) -> int:
        return len(self.opcodes("LDL")) + len(self.opcodes("STL"))

    def figures(self) -> dict[str, float]:
        return {
            "registers": self.registers,
            "shared_bytes": self.shared,
        } | self._instructions()

    def _instructions(self) -> dict[str, float]:
        if not self.pairs:
            return {"instructions_per_element": round(len(self.loop()) / self.elements, 2)}
        # The loops over dims lie within the loop over tiles.
        loops = sorted(self._loops(), key=len)
        of_dims = sum(
            len(loop) for i, loop in enumerate(loops) if not any(inner[0] in loop for inner in loops[:i])
        )
        return {
            "instructions_per_pair": round((len(loops[-1]) - of_dims) / self.pairs, 2),
            "instructions_per_pair_and_dim": round(of_dims / self.pairs, 2),
        }


def read(launches: Sequence[Launch], capability: int) -> list[Assembly]:
    variants = [compiled(launch, capability) for launch in launches]
    cubins = [variant.asm["cubin"] for variant in variants]
    codes = sass.disassemble(cubins, f"SM{capability}")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for launch, variant, code in zip(launches, variants, codes, strict=True):
            cubin = Path(folder) / "kernel.cubin"
            cubin.write_bytes(variant.asm["cubin"])
            usage = sass.dump(cubin, "-res-usage")
            resources = re.search(r"REG:(\d+) STACK:(\d+)", usage)
            assert resources is not None, usage
            threads = 32 * launch.options["num_warps"]
            found.append(
                Assembly(
                    ptx=variant.asm["ptx"],
                    instructions=code,
                    registers=int(resources[1]),
                    stack=int(resources[2]),
                    shared=variant.metadata.shared,
                    threads=threads,
                    fused=launch.options["enable_fp_fusion"],
                    elements=launch.arguments.get("BLOCK", threads) // threads,
                    pairs=launch.arguments.get("OWN", 0) * launch.arguments.get("TILE", 0) // threads,
                )
            )
    return found


def _launch(op: str, variant: str, dtype: torch.dtype) -> Launch:
    launches = launches_of(lambda: VARIANTS[op][variant](dtype))
    named = (launch for launch in launches if launch.kernel.__name__ == variant.split()[0])
    return next(named, launches[0])


def assemble(op: str, variant: str, dtype: torch.dtype, capability: int) -> Assembly:
    return read([_launch(op, variant, dtype)], capability)[0]


def assemble_all(op: str, capability: int) -> dict[tuple[str, str], Assembly]:
    """The assemblies of an op, by variant and name of the dtype."""
    keys = list(product(VARIANTS[op], DTYPES))
    launches = [_launch(op, variant, DTYPES[name]) for variant, name in keys]
    return dict(zip(keys, read(launches, capability), strict=True))


def key(dtype_name: str, capability: int) -> str:
    return f"{dtype_name} sm_{capability}"


def budget_file(op: str) -> Path:
    return _BUDGETS / f"triton_{op}.json"


def _raise_budgets(op: str, reset: bool) -> None:
    reset = reset or not budget_file(op).exists()
    budgets = {} if reset else json.loads(budget_file(op).read_text())
    assemblies = {capability: assemble_all(op, capability) for capability in CAPABILITIES}
    for variant, name, capability in product(VARIANTS[op], DTYPES, CAPABILITIES):
        entry = budgets.setdefault(variant, {})
        known = entry.get(key(name, capability), {})
        found = assemblies[capability][variant, name].figures()
        entry[key(name, capability)] = {k: max(v, known.get(k, 0)) for k, v in found.items()}
    budget_file(op).write_text(json.dumps(budgets, indent=1) + os.linesep)


if __name__ == "__main__":
    for op in VARIANTS.keys() & set(sys.argv) or VARIANTS:
        _raise_budgets(op, reset="--reset" in sys.argv)

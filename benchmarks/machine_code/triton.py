"""Compiles the kernels for GPUs that are not there, as the host side would launch them; reads the assembly.

    python -m benchmarks.machine_code.triton [OP ...]

measures anew and raises the committed budgets to what it finds; ``--reset`` forgets them first.
"""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.machine_code import sass
from benchmarks.machine_code.launches import latent, likelihood, total_correlation
from betavae_fast.ops.triton import (
    latent_kernels,
    likelihood_kernels,
    sums,
    total_correlation_kernels,
    total_correlation_tables,
)

_BUDGETS = Path(__file__).resolve().parents[2] / "benchmarks" / "budgets"
# op -> name -> what is called with a dtype; what is measured is the launch of the kernel that the name begins with, or
# the first.
VARIANTS = {
    "latent": latent.VARIANTS,
    "likelihood": likelihood.VARIANTS,
    "total_correlation": total_correlation.VARIANTS,
}
# Loads and stores of what lies contiguously and aligned are 16 bytes wide in these.
FULL_WIDTH = (*latent.FULL_WIDTH, *likelihood.FULL_WIDTH)
CAPABILITIES = (80, 90, 100)
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}
_KERNELS = {
    latent_kernels: ("latent_forward", "latent_backward"),
    likelihood_kernels: ("likelihood_forward", "likelihood_backward"),
    sums: ("sum_parts",),
    total_correlation_tables: ("tabulate_rows", "tabulate_posteriors", "tabulate_logs"),
    total_correlation_kernels: (
        *("sum_densities", "finish_densities"),
        *("row_gradients", "posterior_gradients", "finish_gradient"),
    ),
}

_OPTIONS = ("num_warps", "enable_fp_fusion", "maxnreg")


class Launch(NamedTuple):
    """A kernel and what it was called with."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]


class _Recorder:
    """Stands in a kernel's place and keeps what it is launched with."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self._kernel, self._launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*positional: Any, **keywords: Any) -> None:
            options = {k: keywords.pop(k) for k in _OPTIONS if k in keywords}
            arguments = dict(zip(self._kernel.arg_names, positional, strict=False)) | keywords
            self._launches.append(Launch(self._kernel, arguments, options))

        return launch


def launches_of(call: Callable[[], Any]) -> list[Launch]:
    """What ``call`` launches, in order; nothing runs."""
    found: list[Launch] = []
    with ExitStack() as stack:
        for module, names in _KERNELS.items():
            for name in names:
                stack.enter_context(mock.patch.object(module, name, _Recorder(getattr(module, name), found)))
        call()
    return found


def _signature(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """(types, constants, attributes) as Triton's own launcher specialises them."""
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for parameter in launch.kernel.params:
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            types[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            types[parameter.name] = _POINTERS[value.dtype]
            if value.data_ptr() % 16 == 0:
                attributes[(parameter.num,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            types[parameter.name] = "fp32"
        else:
            types[parameter.name] = "i32" if -(1 << 31) <= value < 1 << 31 else "i64"
    return types, constants, attributes


class Assembly(NamedTuple):
    """One kernel variant for one GPU."""

    ptx: str
    instructions: sass.Code
    registers: int
    stack: int
    shared: int
    threads: int  # of a program
    fused: bool  # whether the compiler was free to fuse
    elements: int  # of a tile, per thread
    pairs: int  # likewise

    def opcodes(self, prefix: str) -> list[str]:
        return [name for name in sass.opcodes(self.instructions) if name.startswith(prefix)]

    def loop(self) -> sass.Code:
        """The instructions of the longest loop: the one over tiles."""
        return max(self._loops(), key=len, default=[])

    def _loops(self) -> list[sass.Code]:
        loops = []
        for end, text in self.instructions:
            if target := re.search(r"\bBRA(?:\.\w+)* .*?0x([0-9a-f]+)", text):
                loops.append([i for i in self.instructions if int(target[1], 16) <= i[0] <= end])
        return [loop for loop in loops if loop]

    def subroutines(self) -> int:
        """Not counted by their calls: some assemblers leave a loop by one that never returns."""
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
        # The loops over dims lie within the one over tiles.
        loops = sorted(self._loops(), key=len)
        of_dims = sum(
            len(loop) for i, loop in enumerate(loops) if not any(inner[0] in loop for inner in loops[:i])
        )
        return {
            "instructions_per_pair": round((len(loops[-1]) - of_dims) / self.pairs, 2),
            "instructions_per_pair_and_dim": round(of_dims / self.pairs, 2),
        }


def compile_for(launch: Launch, capability: int) -> Assembly:
    types, constants, attributes = _signature(launch)
    source = ASTSource(launch.kernel, types, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        (code,) = sass.kernels(cubin).values()
        usage = sass.dump(cubin, "-res-usage")
    resources = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert resources is not None, usage
    threads = 32 * launch.options["num_warps"]
    return Assembly(
        ptx=compiled.asm["ptx"],
        instructions=code,
        registers=int(resources[1]),
        stack=int(resources[2]),
        shared=compiled.metadata.shared,
        threads=threads,
        fused=launch.options["enable_fp_fusion"],
        elements=launch.arguments.get("BLOCK", threads) // threads,
        pairs=launch.arguments.get("OWN", 0) * launch.arguments.get("TILE", 0) // threads,
    )


def assemble(op: str, variant: str, dtype: torch.dtype, capability: int) -> Assembly:
    launches = launches_of(lambda: VARIANTS[op][variant](dtype))
    named = (launch for launch in launches if launch.kernel.__name__ == variant.split()[0])
    return compile_for(next(named, launches[0]), capability)


def key(dtype_name: str, capability: int) -> str:
    return f"{dtype_name} sm_{capability}"


def budget_file(op: str) -> Path:
    return _BUDGETS / f"triton_{op}.json"


def _raise_budgets(op: str, reset: bool) -> None:
    reset = reset or not budget_file(op).exists()
    budgets = {} if reset else json.loads(budget_file(op).read_text())
    for variant in VARIANTS[op]:
        entry = budgets.setdefault(variant, {})
        for name, dtype in DTYPES.items():
            for capability in CAPABILITIES:
                found = assemble(op, variant, dtype, capability).figures()
                known = entry.get(key(name, capability), {})
                entry[key(name, capability)] = {k: max(v, known.get(k, 0)) for k, v in found.items()}
        print(variant, json.dumps(entry), flush=True)
    budget_file(op).write_text(json.dumps(budgets, indent=1) + os.linesep)


if __name__ == "__main__":
    for op in VARIANTS.keys() & set(sys.argv) or VARIANTS:
        _raise_budgets(op, reset="--reset" in sys.argv)

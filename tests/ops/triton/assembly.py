"""Compiles the kernels for GPUs that are not there, as the host side would launch them; reads the assembly.

    python -m tests.ops.triton.assembly

measures anew and raises the committed budgets to what it finds; ``--reset`` forgets them first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from betavae_fast.ops.schemas import REDUCTIONS
from betavae_fast.ops.triton import latent, latent_kernels, sums

BUDGETS = Path(__file__).resolve().parents[3] / "benchmarks" / "budgets" / "triton_latent.json"
CAPABILITIES = (80, 90, 100)
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
}
_KERNELS = (
    (latent_kernels, "latent_forward"),
    (latent_kernels, "latent_backward"),
    (sums, "sum_parts"),
)


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
            options = {k: keywords.pop(k) for k in ("num_warps", "enable_fp_fusion")}
            arguments = dict(zip(self._kernel.arg_names, positional, strict=False)) | keywords
            self._launches.append(Launch(self._kernel, arguments, options))

        return launch


def launches_of(call: Callable[[], Any]) -> list[Launch]:
    """What ``call`` launches, in order; nothing runs."""
    found: list[Launch] = []
    with (
        mock.patch.multiple(latent_kernels, **_recorders(latent_kernels, found)),
        mock.patch.multiple(sums, **_recorders(sums, found)),
    ):
        call()
    return found


def _recorders(module: Any, launches: list[Launch]) -> dict[str, Any]:
    return {name: _Recorder(getattr(m, name), launches) for m, name in _KERNELS if m is module}


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
    instructions: list[tuple[int, str]]  # (address, text)
    registers: int
    stack: int
    shared: int
    elements: int  # of a tile, per thread

    def opcodes(self, prefix: str) -> list[str]:
        names = (
            text.split()[1] if text.startswith("@") else text.split()[0] for _, text in self.instructions
        )
        return [name for name in names if name.startswith(prefix)]

    def loop(self) -> list[tuple[int, str]]:
        """The instructions of the longest loop: the one over tiles."""
        longest: list[tuple[int, str]] = []
        for end, text in self.instructions:
            if target := re.search(r"\bBRA(?:\.\w+)* .*?0x([0-9a-f]+)", text):
                body = [i for i in self.instructions if int(target[1], 16) <= i[0] <= end]
                longest = max(longest, body, key=len)
        return longest

    def subroutines(self) -> int:
        """Not counted by their calls: some assemblers leave a loop by one that never returns."""
        return len(self.opcodes("RET"))

    def spills(self) -> int:
        return len(self.opcodes("LDL")) + len(self.opcodes("STL"))

    def figures(self) -> dict[str, float]:
        return {
            "registers": self.registers,
            "shared_bytes": self.shared,
            "instructions_per_element": round(len(self.loop()) / self.elements, 2),
        }


def _tool(name: str) -> str:
    found = list(Path(triton.__file__).parent.glob(f"backends/nvidia/bin/{name}"))
    return str(found[0]) if found else name


def compile_for(launch: Launch, capability: int) -> Assembly:
    types, constants, attributes = _signature(launch)
    source = ASTSource(launch.kernel, types, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        run = lambda flag: (
            subprocess.run(
                [_tool("cuobjdump"), flag, cubin.name], capture_output=True, text=True, check=True
            ).stdout
        )
        sass, usage = run("-sass"), run("-res-usage")
    resources = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert resources is not None, usage
    return Assembly(
        ptx=compiled.asm["ptx"],
        instructions=[
            (int(address, 16), text)
            for address, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]+?)\s*;", sass)
        ],
        registers=int(resources[1]),
        stack=int(resources[2]),
        shared=compiled.metadata.shared,
        elements=launch.arguments.get("BLOCK", 32 * launch.options["num_warps"])
        // (32 * launch.options["num_warps"]),
    )


def _posterior(dtype: torch.dtype, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    if layout == "packed":
        return tuple(torch.empty(65536, 256, dtype=dtype).chunk(2, 1))  # type: ignore[return-value]
    if layout == "channels_last":
        make = lambda: torch.empty(16, 4, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
        return make(), make()
    cols = {"contiguous": 128, "ten": 10, "odd": 37}[layout]
    return torch.empty(65536, cols, dtype=dtype), torch.empty(65536, cols, dtype=dtype)


_ANY = (-float("inf"), float("inf"))


def _forward(
    layout: str, reduction: str, *, given: bool = False, first_row: int = 0, limits: Any = _ANY
) -> Any:
    def call(dtype: torch.dtype) -> None:
        mu, logvar = _posterior(dtype, layout)
        rng, noise = torch.zeros(2, dtype=torch.int64), torch.empty_like(mu) if given else None
        latent.latent_forward(mu, logvar, rng, noise, first_row, *limits, REDUCTIONS[reduction])

    return call


def _sample(dtype: torch.dtype) -> None:
    latent.latent_sample(*_posterior(dtype, "contiguous"), torch.zeros(2, dtype=torch.int64), None, 0, *_ANY)


def _kl(dtype: torch.dtype) -> None:
    latent.latent_kl(*_posterior(dtype, "contiguous"), *_ANY, REDUCTIONS["dim"])


def _backward(layout: str, reduction: str) -> Any:
    def call(dtype: torch.dtype) -> None:
        mu, logvar = _posterior(dtype, layout)
        shape = {"dim": mu.shape[1:], "sample": mu.shape[:1], "sum": (), "none": mu.shape}[reduction]
        rng = torch.zeros(2, dtype=torch.int64)
        grad_z, grad_kl = torch.empty_like(mu), torch.empty(shape)
        latent.latent_backward(
            grad_z, grad_kl, mu, logvar, rng, None, 0, *_ANY, REDUCTIONS[reduction], True, True
        )

    return call


# Each is called with a dtype; its first launch is what is measured.
VARIANTS: dict[str, Callable[[torch.dtype], None]] = {
    "forward dim (B, 128)": _forward("contiguous", "dim"),
    "forward dim (B, 128) clamped": _forward("contiguous", "dim", limits=(-10.0, 10.0)),
    "forward dim (B, 128) noise given": _forward("contiguous", "dim", given=True),
    "forward dim (B, 128) packed": _forward("packed", "dim"),
    "forward dim (B, 10)": _forward("ten", "dim"),
    "forward dim (B, 37) odd first row": _forward("odd", "dim", first_row=1),
    "forward dim (B, 4, 64, 64) channels last": _forward("channels_last", "dim"),
    "forward sample (B, 128)": _forward("contiguous", "sample"),
    "forward sum (B, 128)": _forward("contiguous", "sum"),
    "forward none (B, 128)": _forward("contiguous", "none"),
    "sample (B, 128)": _sample,
    "kl dim (B, 128)": _kl,
    "backward dim (B, 128)": _backward("contiguous", "dim"),
    "backward dim (B, 128) packed": _backward("packed", "dim"),
    "backward sample (B, 128)": _backward("contiguous", "sample"),
    "backward none (B, 128)": _backward("contiguous", "none"),
    "backward dim (B, 10)": _backward("ten", "dim"),
}
# Loads and stores of what lies contiguously and aligned are 16 bytes wide in these.
FULL_WIDTH = tuple(name for name in VARIANTS if "(B, 128)" in name)


def assemble(variant: str, dtype: torch.dtype, capability: int) -> Assembly:
    return compile_for(launches_of(lambda: VARIANTS[variant](dtype))[0], capability)


def key(dtype_name: str, capability: int) -> str:
    return f"{dtype_name} sm_{capability}"


def _raise_budgets(reset: bool) -> None:
    budgets = {} if reset else json.loads(BUDGETS.read_text())
    for variant in VARIANTS:
        entry = budgets.setdefault(variant, {})
        for name, dtype in DTYPES.items():
            for capability in CAPABILITIES:
                found = assemble(variant, dtype, capability).figures()
                known = entry.get(key(name, capability), {})
                entry[key(name, capability)] = {k: max(v, known.get(k, 0)) for k, v in found.items()}
        print(variant, json.dumps(entry), flush=True)
    BUDGETS.write_text(json.dumps(budgets, indent=1) + os.linesep)


if __name__ == "__main__":
    _raise_budgets(reset="--reset" in sys.argv)

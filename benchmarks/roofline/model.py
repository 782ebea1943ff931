"""The model: memory and all pipes work at the same time, so an element takes as long as the slowest of them.

Each instruction is assigned to the pipe that runs it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.machine_code import sass
from benchmarks.roofline.machines import Machine

_REGISTERS_AT_A_TIME = 8  # registers of a thread are allocated in multiples of this
_SYSTEM_SHARED_BYTES = 1 << 10  # shared memory that the system uses in each CTA


# Pipe -> names of its opcodes, without modifiers.
_PIPES = (
    ("integer_multiply", r"IMAD|HFMA2|HADD2|HMUL2|IDP"),
    ("fma", r"FFMA|FADD|FMUL|FSWZADD"),
    ("fp64", r"D(ADD|MUL|FMA|SETP)"),
    ("xu", r"MUFU|I2F|F2I|F2F|FRND|POPC|FLO|BREV"),
    ("lsu", r"LD[GSLC]?|LDSM|LDGSTS|ST[GSL]?|STSM|SHFL|ATOM[GS]?|RED"),
    # The uniform datapath, jumps, barriers and special registers cost only the issue of an instruction.
    (
        "other",
        r"U[A-Z0-9_]+|R2UR|BRA|BSSY|BSYNC|BREAK|WARPSYNC|EXIT|RET|CALL|BAR|MEMBAR|DEPBAR|LDGDEPBAR|ARRIVES|S2U?R|CS2R"
        r"|NANOSLEEP|YIELD",
    ),
)  # fmt: skip


def pipe(opcode: str) -> str:
    """The pipe of an instruction. Opcodes in no list go to the alu, as most do; its rate is half that of the issue."""
    base = opcode.split(".")[0]
    return next((name for name, pattern in _PIPES if re.fullmatch(pattern, base)), "alu")


def places(opcode: str) -> int:
    """The number of passes of an instruction through its pipe: 2 for a 64-bit product, which fills two registers."""
    return 2 if opcode.startswith("IMAD.WIDE") else 1


def by_pipe(opcodes: Iterable[str]) -> Counter[str]:
    """The number of instructions in each pipe."""
    return Counter(pipe(opcode) for opcode in opcodes)


def passes(opcodes: Iterable[str]) -> Counter[str]:
    """The number of passes through each pipe."""
    found: Counter[str] = Counter()
    for opcode in opcodes:
        found[pipe(opcode)] += places(opcode)
    return found


def width(opcode: str) -> int:
    """The bytes per thread of a load or store."""
    if wide := re.search(r"\.(64|128)\b", opcode):
        return int(wide[1]) // 8
    narrow = re.search(r"\.[US](8|16)\b", opcode)
    return int(narrow[1]) // 8 if narrow else 4


def accesses(opcodes: Iterable[str]) -> dict[str, int]:
    """The number of loads and stores of global memory by width in bytes: ``{"LDG 16": 2, "STG 16": 1}``."""
    found = Counter(f"{o[:3]} {width(o)}" for o in opcodes if o.startswith(("LDG", "STG")))
    return dict(sorted(found.items()))


class Kernel(NamedTuple):
    """A compiled kernel, and the work of a thread in one round of its main loop."""

    code: sass.Code  # instructions of the round
    registers: int  # registers of a thread
    shared_bytes: int  # shared memory of a CTA
    threads: int  # threads of a CTA
    elements: float  # elements of a thread in the round
    bytes: float  # bytes per element from and to memory; 0 if the data read lie in caches
    exponentials: float = 0  # exponentials per element, if these and not memory are the floor


class Prediction(NamedTuple):
    """The clocks of an SM for one element, by resource.

    ``fraction`` is the floor over the clocks of ``limiter``. The floor is the time of the memory or, without memory
    traffic, the time of the exponentials alone.
    """

    clocks: dict[str, float]
    limiter: str
    fraction: float


def resident_threads(kernel: Kernel, machine: Machine) -> int:
    """The number of threads that fit onto an SM at once."""
    registers = -(-kernel.registers // _REGISTERS_AT_A_TIME) * _REGISTERS_AT_A_TIME
    ctas = min(
        machine.registers // (registers * kernel.threads),
        machine.threads // kernel.threads,
        machine.ctas,
        machine.shared_bytes // (kernel.shared_bytes + _SYSTEM_SHARED_BYTES),
    )
    return ctas * kernel.threads


def predict(kernel: Kernel, machine: Machine) -> Prediction:
    opcodes = sass.opcodes(kernel.code)
    counts = passes(opcodes)
    moved = sum(width(o) for o in opcodes if pipe(o) == "lsu")
    of_round = {
        "fma": (counts["fma"] + counts["integer_multiply"]) / machine.fma,
        "integer multiply": counts["integer_multiply"] / machine.integer_multiply,
        "alu": counts["alu"] / machine.alu,
        "xu": counts["xu"] / machine.xu,
        "fp64": counts["fp64"] / machine.fp64,
        "lsu": max(counts["lsu"] / machine.lsu, moved / machine.lsu_bytes),
        "issue": len(opcodes) / machine.issue,
    }
    clocks = {name: time / kernel.elements for name, time in of_round.items()}
    if kernel.bytes:
        clocks["memory"] = kernel.bytes / machine.bytes_per_clock
        clocks["latency"] = machine.latency / (resident_threads(kernel, machine) * kernel.elements)
    limiter = max(clocks, key=lambda name: (clocks[name], name == "memory"))
    floor = clocks["memory"] if kernel.bytes else kernel.exponentials / machine.xu
    return Prediction(clocks, limiter, floor / clocks[limiter])

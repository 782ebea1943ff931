"""Assigns instructions to the pipes that run them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

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

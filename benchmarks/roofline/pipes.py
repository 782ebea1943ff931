"""Which pipe runs which instruction."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# By the opcode's name, without its modifiers.
_PIPES = (
    ("integer_multiply", r"IMAD|HFMA2|HADD2|HMUL2|IDP"),
    ("fma", r"FFMA|FADD|FMUL|FSWZADD"),
    ("fp64", r"D(ADD|MUL|FMA|SETP)"),
    ("xu", r"MUFU|I2F|F2I|F2F|FRND|POPC|FLO|BREV"),
    ("lsu", r"LD[GSLC]?|LDSM|LDGSTS|ST[GSL]?|STSM|SHFL|ATOM[GS]?|RED"),
    # The uniform datapath, jumps, barriers and special registers cost a place in the queue only.
    (
        "other",
        r"U[A-Z0-9_]+|R2UR|BRA|BSSY|BSYNC|BREAK|WARPSYNC|EXIT|RET|CALL|BAR|MEMBAR|DEPBAR|LDGDEPBAR|ARRIVES|S2U?R|CS2R"
        r"|NANOSLEEP|YIELD",
    ),
)  # fmt: skip


def pipe(opcode: str) -> str:
    """What is in no list is taken for the alu's, as most are: half the rate of issue."""
    base = opcode.split(".")[0]
    return next((name for name, pattern in _PIPES if re.fullmatch(pattern, base)), "alu")


def places(opcode: str) -> int:
    """How often an instruction passes through its pipe: a product of 64 bits is written as two registers."""
    return 2 if opcode.startswith("IMAD.WIDE") else 1


def by_pipe(opcodes: Iterable[str]) -> Counter[str]:
    """Instructions."""
    return Counter(pipe(opcode) for opcode in opcodes)


def passes(opcodes: Iterable[str]) -> Counter[str]:
    """Passes through each pipe."""
    found: Counter[str] = Counter()
    for opcode in opcodes:
        found[pipe(opcode)] += places(opcode)
    return found


def width(opcode: str) -> int:
    """Bytes of a load or store, a thread."""
    if wide := re.search(r"\.(64|128)\b", opcode):
        return int(wide[1]) // 8
    narrow = re.search(r"\.[US](8|16)\b", opcode)
    return int(narrow[1]) // 8 if narrow else 4


def accesses(opcodes: Iterable[str]) -> dict[str, int]:
    """Loads and stores of global memory by their width in bytes: ``{"LDG 16": 2, "STG 16": 1}``."""
    found = Counter(f"{o[:3]} {width(o)}" for o in opcodes if o.startswith(("LDG", "STG")))
    return dict(sorted(found.items()))

"""Reads machine code as cuobjdump lists it: instructions, loops, and one round of the main loop."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

Code = list[tuple[int, str]]  # (address, text), without padding


def cuobjdump() -> str | None:
    """The disassembler: nvcc's own, or the one in Triton's package."""
    if found := shutil.which("cuobjdump"):
        return found
    spec = importlib.util.find_spec("triton")
    bundled = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump" if spec and spec.origin else None
    return str(bundled) if bundled and bundled.exists() else None


def dump(cubin: Path, what: str) -> str:
    command = [cuobjdump() or "cuobjdump", what, str(cubin)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kernels(cubin: Path) -> dict[str, Code]:
    """Every kernel of the file by its mangled name."""
    found: dict[str, Code] = {}
    code: Code = []
    for line in dump(cubin, "-sass").splitlines():
        if function := re.search(r"Function : (\w+)", line):
            found[function[1]] = code = []
        elif (at := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line)) and at[2] != "NOP":
            code.append((int(at[1], 16), at[2]))
    return found


def opcode(text: str) -> str:
    """``LDG.E.128`` of ``@!P0 LDG.E.128 R4, [R2.64]``."""
    words = text.split()
    return words[1] if text.startswith("@") else words[0]


def opcodes(code: Code) -> list[str]:
    return [opcode(text) for _, text in code]


def _jumps(code: Code) -> dict[int, tuple[int, bool]]:
    """Where each jump leads, and whether it is conditional."""
    at = {address: i for i, (address, _) in enumerate(code)}
    return {
        i: (at[int(m[1], 16)], text.startswith("@") or bool(re.search(r"\bBRA\S* !?U?P\d", text)))
        for i, (_, text) in enumerate(code)
        if (m := re.search(r"\bBRA\b.* 0x([0-9a-f]+)$", text)) and int(m[1], 16) in at
    }


def _loops(code: Code) -> list[tuple[int, int]]:
    """(first, last) instruction of each."""
    return [(to, i) for i, (to, _) in _jumps(code).items() if to < i]


def inner_loops(code: Code) -> list[Code]:
    """The bodies of those that hold no other."""
    loops = _loops(code)
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [code[start : end + 1] for start, end in inner]


def once_round(code: Code) -> Code:
    """Once round the longest loop, by the shortest way with the most arithmetic and 16-byte accesses."""
    jumps = _jumps(code)
    loops = _loops(code)
    if not loops:
        return []
    start, end = max(loops, key=lambda loop: (loop[1] - loop[0], loop))

    def worth(text: str) -> int:
        return 10 if re.search(r"(LDG|STG)\.E\.128", text) else "FFMA" in text

    # What is passed from here to the end, minus the instructions, and the next.
    best: dict[int, tuple[int, int, int]] = {end: (0, -1, end)}
    for i in range(end - 1, start - 1, -1):
        to, conditional = jumps.get(i, (i + 1, False))
        ways = [(*best[j][:2], j) for j in {to, i + 1} if i < j and j in best and (conditional or j == to)]
        if ways and not re.match(r"EXIT|RET", code[i][1]):
            passed, length, following = max(ways)
            best[i] = (passed + worth(code[i][1]), length - 1, following)
    if start not in best:
        return []
    way = [start]
    while way[-1] != end:
        way.append(best[way[-1]][2])
    return [code[i] for i in way]

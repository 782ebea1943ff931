"""Reads machine code from cuobjdump's listing: instructions, loops, and one round of the main loop."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
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


def _instruction(line: str) -> tuple[int, str] | None:
    at = re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line)
    return (int(at[1], 16), at[2]) if at and at[2] != "NOP" else None


def kernels(cubin: Path) -> dict[str, Code]:
    """The code of every kernel in the file, by mangled name."""
    found: dict[str, Code] = {}
    code: Code = []
    for line in dump(cubin, "-sass").splitlines():
        if function := re.search(r"Function : (\w+)", line):
            found[function[1]] = code = []
        elif instruction := _instruction(line):
            code.append(instruction)
    return found


def _machine_code(cubin: bytes) -> bytes:
    """The executable section of an ELF file, which is the form of a Triton kernel."""
    (table,), (size, number) = struct.unpack_from("<Q", cubin, 40), struct.unpack_from("<HH", cubin, 58)
    for at in range(table, table + size * number, size):
        flags, _, offset, length = struct.unpack_from("<QQQQ", cubin, at + 8)
        if flags & 4:
            return cubin[offset : offset + length]
    raise ValueError("a cubin must have an executable section, got one without")


def disassemble(cubins: Sequence[bytes], arch: str) -> list[Code]:
    """The instructions of files that hold one kernel each; the addresses continue from file to file.

    The disassembler takes longer to start than to work, so it is started only once for all files.
    """
    parts = [_machine_code(cubin) for cubin in cubins]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        raw.write_bytes(b"".join(parts))
        command = [str(Path(cuobjdump() or "").with_name("nvdisasm")), "--binary", arch, str(raw)]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    instructions = [i for line in listing.splitlines() if (i := _instruction(line))]
    ends = list(itertools.accumulate(map(len, parts)))
    return [
        [i for i in instructions if end - len(part) <= i[0] < end]
        for part, end in zip(parts, ends, strict=True)
    ]


def opcode(text: str) -> str:
    """The opcode of an instruction: ``LDG.E.128`` of ``@!P0 LDG.E.128 R4, [R2.64]``."""
    words = text.split()
    return words[1] if text.startswith("@") else words[0]


def opcodes(code: Code) -> list[str]:
    return [opcode(text) for _, text in code]


def _jumps(code: Code) -> dict[int, tuple[int, bool]]:
    """The target of each jump, and True if it is conditional, by the jump's position."""
    at = {address: i for i, (address, _) in enumerate(code)}
    return {
        i: (at[int(m[1], 16)], text.startswith("@") or bool(re.search(r"\bBRA\S* !?U?P\d", text)))
        for i, (_, text) in enumerate(code)
        if (m := re.search(r"\bBRA\b.* 0x([0-9a-f]+)$", text)) and int(m[1], 16) in at
    }


def _loops(code: Code) -> list[tuple[int, int]]:
    """The positions of the first and the last instruction of each loop."""
    return [(to, i) for i, (to, _) in _jumps(code).items() if to < i]


def inner_loops(code: Code) -> list[Code]:
    """The bodies of the loops that contain no other loop."""
    loops = _loops(code)
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [code[start : end + 1] for start, end in inner]


def once_round(code: Code) -> Code:
    """The instructions of one round of the longest loop.

    Among all paths this takes the one with the most arithmetic and 16-byte accesses, and the shortest of these.
    """
    jumps = _jumps(code)
    loops = _loops(code)
    if not loops:
        return []
    start, end = max(loops, key=lambda loop: (loop[1] - loop[0], loop))

    def worth(text: str) -> int:
        return 10 if re.search(r"(LDG|STG)\.E\.128", text) else "FFMA" in text

    # Position -> (worth of the best path from here to the end, minus its number of instructions, next position).
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

"""The committed table: what was predicted of each kernel, and from which counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine_code import sass
from benchmarks.roofline import pipes
from benchmarks.roofline.kernels import Row
from benchmarks.roofline.machines import MACHINES
from benchmarks.roofline.model import Kernel, predict, resident_threads

FILE = Path(__file__).resolve().parents[1] / "results" / "roofline" / "roofline.json"
# A prediction may be this much lower than the committed one: another patch level of a compiler.
TOLERANCE = 0.01


def entry(row: Row, kernel: Kernel) -> dict[str, Any]:
    opcodes = sass.opcodes(kernel.code)
    per_element = {name: round(n / kernel.elements, 2) for name, n in sorted(pipes.by_pipe(opcodes).items())}
    machines = [machine for machine in MACHINES if machine.arch == row.arch]
    return {
        **row._asdict(),
        "bytes_per_element": kernel.bytes,
        "elements_of_a_round": kernel.elements,
        "accesses_of_a_round": pipes.accesses(opcodes),
        "instructions_per_element": {"all": round(len(opcodes) / kernel.elements, 2)} | per_element,
        "registers": kernel.registers,
        "shared_bytes": kernel.shared_bytes,
        "predicted": {
            machine.name: {
                "occupancy": round(resident_threads(kernel, machine) / machine.threads, 3),
                "limiter": (found := predict(kernel, machine)).limiter,
                "fraction": round(found.fraction, 3),
                "clocks_per_element": {name: round(time, 4) for name, time in found.clocks.items()},
            }
            for machine in machines
        },
    }


def check(found: Mapping[Row, Kernel]) -> None:
    """AssertionError if a kernel is predicted to be slower than in the committed table."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    committed = {Row(*(e[field] for field in Row._fields)): e["predicted"] for e in document["kernels"]}
    slower = [
        f"{row} on {machine.name}: {fraction:.3f}, committed {known}"
        for row, kernel in found.items()
        for machine in MACHINES
        if machine.arch == row.arch
        and (fraction := predict(kernel, machine).fraction)
        < (known := committed[row][machine.name]["fraction"]) - TOLERANCE
    ]
    assert not slower, "\n".join(slower)

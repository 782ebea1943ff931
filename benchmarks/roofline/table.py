"""The committed table: the prediction for each kernel, and the counts it follows from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import RESULTS, ROOT
from benchmarks.machine_code import sass
from benchmarks.pages import markdown
from benchmarks.roofline.kernels import Row
from benchmarks.roofline.machines import MACHINES
from benchmarks.roofline.model import Kernel, accesses, by_pipe, predict, resident_threads
from betavae_fast.files import read_json

FILE = RESULTS / "roofline" / "roofline.json"
PAGE = ROOT / "docs" / "roofline.md"
# A prediction may be lower than the committed one by this much, because compilers of other patch levels differ.
TOLERANCE = 0.01


def entry(row: Row, kernel: Kernel) -> dict[str, Any]:
    opcodes = sass.opcodes(kernel.code)
    per_element = {name: round(n / kernel.elements, 2) for name, n in sorted(by_pipe(opcodes).items())}
    machines = [machine for machine in MACHINES if machine.arch == row.arch]
    return {
        **row._asdict(),
        "bytes_per_element": kernel.bytes,
        "elements_of_a_round": kernel.elements,
        "accesses_of_a_round": accesses(opcodes),
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


def read() -> dict[str, Any]:
    found: dict[str, Any] = read_json(FILE)
    return found


def slower(found: Mapping[Row, Kernel]) -> list[str]:
    """A line for each kernel that is predicted to be slower than in the committed table, or is not in it."""
    committed = {Row(*(e[field] for field in Row._fields)): e["predicted"] for e in read()["kernels"]}
    lines = [f"{row}: not in the table" for row in found if row not in committed]
    for row, kernel in found.items():
        for name, known in committed.get(row, {}).items():
            fraction = predict(kernel, next(machine for machine in MACHINES if machine.name == name)).fraction
            if fraction < known["fraction"] - TOLERANCE:
                lines.append(f"{row} on {name}: {fraction:.3f}, committed {known['fraction']:.3f}")
    return lines


def on_page(document: dict[str, Any]) -> str:
    """The table in Markdown: a row for each kernel, with its instructions on sm_90 and its fraction on each machine."""
    names = [machine["name"] for machine in document["machines"]]
    rows = []
    of_kernel: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for e in document["kernels"]:
        of_kernel.setdefault((e["op"], f"{e['backend']} {e['kernel']}", e["dtype"]), []).append(e)
    for (op, kernel, dtype), entries in of_kernel.items():
        predicted = {name: p for e in entries for name, p in e["predicted"].items()}
        instructions = next(e for e in entries if e["arch"] == "sm_90")["instructions_per_element"]["all"]
        cells = [op.replace("_", " "), kernel, dtype, f"{instructions:.1f}"]
        for name in names:
            limiter = predicted[name]["limiter"]
            cells.append(
                f"{predicted[name]['fraction']:.0%}" + ("" if limiter == "memory" else f" {limiter}")
            )
        rows.append(cells)
    return markdown(("op", "kernel", "dtype", "instructions", *names), rows)

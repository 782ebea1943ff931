"""The model: time of an element = the longest of what its memory and each pipe take, all of them busy at once."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.machine_code import sass
from benchmarks.roofline import pipes
from benchmarks.roofline.machines import Machine

_REGISTERS_AT_A_TIME = 8  # a thread's registers are dealt out in these
_SYSTEM_SHARED_BYTES = 1 << 10  # of each CTA


class Kernel(NamedTuple):
    """A compiled kernel, and the work of a thread in one round of its main loop."""

    code: sass.Code  # of the round
    registers: int
    shared_bytes: int
    threads: int  # of a CTA
    elements: float
    bytes: float  # of an element, from and to memory; 0 if what is read lies in caches
    exponentials: float = 0  # of an element, where these and not memory are the floor


class Prediction(NamedTuple):
    """Clocks of an SM for one element.

    fraction: of the floor, which is the memory's time, or that of the exponentials on their own.
    """

    clocks: dict[str, float]
    limiter: str
    fraction: float


def resident_threads(kernel: Kernel, machine: Machine) -> int:
    """That fit onto an SM at once."""
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
    passes = pipes.passes(opcodes)
    moved = sum(pipes.width(o) for o in opcodes if pipes.pipe(o) == "lsu")
    of_round = {
        "fma": (passes["fma"] + passes["integer_multiply"]) / machine.fma,
        "integer multiply": passes["integer_multiply"] / machine.integer_multiply,
        "alu": passes["alu"] / machine.alu,
        "xu": passes["xu"] / machine.xu,
        "fp64": passes["fp64"] / machine.fp64,
        "lsu": max(passes["lsu"] / machine.lsu, moved / machine.lsu_bytes),
        "issue": len(opcodes) / machine.issue,
    }
    clocks = {name: time / kernel.elements for name, time in of_round.items()}
    if kernel.bytes:
        clocks["memory"] = kernel.bytes / machine.bytes_per_clock
        clocks["latency"] = machine.latency / (resident_threads(kernel, machine) * kernel.elements)
    limiter = max(clocks, key=lambda name: (clocks[name], name == "memory"))
    floor = clocks["memory"] if kernel.bytes else kernel.exponentials / machine.xu
    return Prediction(clocks, limiter, floor / clocks[limiter])

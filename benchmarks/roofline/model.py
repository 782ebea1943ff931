"""The model: memory and all pipes work at the same time, so an element takes as long as the slowest of them."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.machine_code import sass
from benchmarks.roofline import pipes
from benchmarks.roofline.machines import Machine

_REGISTERS_AT_A_TIME = 8  # registers of a thread are allocated in multiples of this
_SYSTEM_SHARED_BYTES = 1 << 10  # shared memory that the system uses in each CTA


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

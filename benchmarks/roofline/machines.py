"""What the GPUs can do at most, as their maker states it.

Rates: threads' results a clock and SM, from the table "Throughput of Native Arithmetic Instructions" of the CUDA C++
Programming Guide (columns 8.0 and 9.0). Which pipe runs an instruction: the table of pipelines in the Nsight Compute
documentation. Sizes of an SM: the same guide's "Technical Specifications per Compute Capability". SMs, clocks and
bandwidths: the data sheets of the A100 80 GB SXM, H100 SXM and H200 SXM.
"""

from __future__ import annotations

from typing import NamedTuple


class Machine(NamedTuple):
    name: str
    arch: str
    sms: int
    clock: float  # Hz, boost: nothing of arithmetic is faster
    bandwidth: float  # bytes/s of device memory
    # Results a clock and SM:
    fma: float  # float32 additions, multiplications, fused ones; integer multiplications among them
    integer_multiply: float  # the part of the fma pipe that knows integers
    alu: float  # integer additions, logic, shifts, comparisons, selections
    xu: float  # reciprocals, roots, exponentials, conversions between integers and floats
    fp64: float
    lsu: float  # addresses of loads and stores; shuffles
    issue: float  # instructions of any kind: four schedulers, a warp each
    lsu_bytes: int  # a clock and SM, between L1 and registers
    # Sizes of an SM:
    registers: int
    threads: int
    ctas: int
    shared_bytes: int
    # Clocks from a load to its data, device memory under load. No data sheet has it; idle, it is a bit below 500 on both
    # (Luo et al. 2024, arXiv:2402.13499).
    latency: float = 800

    @property
    def bytes_per_clock(self) -> float:
        """Of device memory, for one SM."""
        return self.bandwidth / (self.sms * self.clock)


_SM_80 = {
    **{"fma": 64, "integer_multiply": 64, "alu": 64, "xu": 16, "fp64": 32, "lsu": 32, "issue": 128},
    **{"lsu_bytes": 128, "registers": 65536, "threads": 2048, "ctas": 32, "shared_bytes": 164 << 10},
}
_SM_90 = _SM_80 | {"fma": 128, "fp64": 64, "shared_bytes": 228 << 10}

A100 = Machine("A100", "sm_80", sms=108, clock=1.410e9, bandwidth=2.039e12, **_SM_80)
H100 = Machine("H100", "sm_90", sms=132, clock=1.980e9, bandwidth=3.35e12, **_SM_90)
H200 = Machine("H200", "sm_90", sms=132, clock=1.980e9, bandwidth=4.8e12, **_SM_90)
MACHINES = (A100, H100, H200)

"""The peak rates of the GPUs, as NVIDIA states them.

These figures were compared with their sources in November 2026:

- SMs, boost clocks and bandwidths: data sheets of the A100 80 GB SXM, H100 SXM and H200 SXM. They agree with the stated
  float32 peaks, SMs x fma x 2 x clock: 19.5, 67 and 67 TFLOPS. The fp64 rates agree with 9.7, 34 and 34 TFLOPS.
- fma, fp64, xu and alu of compute capability 8.0, and the sizes of an SM of 8.0 and 9.0: the CUDA C++ Programming Guide's
  tables "Throughput of Native Arithmetic Instructions" (from CUDA 13 on in the Best Practices Guide) and "Technical
  Specifications per Compute Capability".
- The pipe of floats and of integer multiplications: NVIDIA's answer in its developer forum, "Separate CUDA Core pipeline
  for FP16 and FP32" (302018). Compute capability 8.0 has one fma pipe; on 9.0 it has two halves, one of which also
  multiplies integers.

These figures were not compared, but are from memory of the same tables: xu, alu and lsu of 9.0; lsu and integer_multiply
of 8.0. lsu_bytes and latency are assumed, and so is the rate of the conversions that model.py assigns to the alu. If they
ran at the rate of the xu, an element would have at most 2.5 instructions there, including those it has anyway: 0.16
clocks, while memory takes 0.2 or more.
"""

from __future__ import annotations

from typing import NamedTuple


class Machine(NamedTuple):
    name: str
    arch: str
    sms: int
    clock: float  # boost clock in Hz, the fastest at which arithmetic runs
    bandwidth: float  # bytes/s of device memory
    # Results per clock and SM:
    fma: float  # float32 additions, multiplications and fused multiply-adds; integer multiplications are among them
    integer_multiply: float  # integer multiplications, which only a part of the fma pipe can do
    alu: float  # integer additions, logic, shifts, comparisons, selections
    xu: float  # reciprocals, roots, exponentials, conversions between integers and floats
    fp64: float
    lsu: float  # addresses of loads and stores; shuffles
    issue: float  # instructions of any kind: four schedulers, each for a warp
    lsu_bytes: int  # bytes per clock and SM between L1 and registers
    # Sizes of an SM:
    registers: int
    threads: int
    ctas: int
    shared_bytes: int
    # Clocks from a load to its data, from device memory under load. No data sheet states it; without load it is a bit
    # below 500 on both architectures (Luo et al. 2024, arXiv:2402.13499).
    latency: float = 800

    @property
    def bytes_per_clock(self) -> float:
        """The bandwidth of device memory for one SM, in bytes per clock."""
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

"""The name of the machine in the names of result files."""

from __future__ import annotations

import pytest
import torch

from betavae_fast.bench import machine

AVX512 = "fpu avx2 avx512f avx512_bf16"


@pytest.mark.parametrize(
    "vendor, family, model, flags, name",
    [
        ("AuthenticAMD", 0x17, 0x01, "fpu avx2", "avx2"),  # Naples, Zen 1
        ("AuthenticAMD", 0x17, 0x31, "fpu avx2", "zen2"),  # Rome
        ("AuthenticAMD", 0x19, 0x01, "fpu avx2", "zen3"),  # Milan
        ("AuthenticAMD", 0x19, 0x11, AVX512, "zen4"),  # Genoa
        ("AuthenticAMD", 0x19, 0xA0, AVX512, "zen4"),  # Bergamo
        ("AuthenticAMD", 0x1A, 0x02, AVX512, "zen5"),  # Turin
        ("AuthenticAMD", 0x1A, 0x50, AVX512, "avx512"),  # not Zen 5
        ("GenuineIntel", 6, 0x8F, f"{AVX512} amx_tile amx_bf16", "amx"),  # Sapphire Rapids
        ("GenuineIntel", 6, 0x6A, "fpu avx2 avx512f", "avx512"),  # Ice Lake
        ("GenuineIntel", 6, 0x3F, "fpu avx2", "avx2"),  # Haswell
        ("GenuineIntel", 6, 0x2A, "fpu avx", ""),  # Sandy Bridge
    ],
)
def test_a_cpu_is_named_after_its_microarchitecture(vendor, family, model, flags, name):
    info = {"vendor_id": vendor, "cpu family": str(family), "model": str(model), "flags": flags}
    assert machine.microarchitecture(info) == name


@pytest.mark.parametrize(
    "info", [{}, {"processor": "0", "Features": "fp asimd bf16"}], ids=["no file", "arm64"]
)
def test_a_cpu_that_is_not_x86_is_a_cpu(monkeypatch, info):
    monkeypatch.setattr(machine, "_cpu_info", lambda: info)
    assert machine.kind(torch.device("cpu")) == "cpu"

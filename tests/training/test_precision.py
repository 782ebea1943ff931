"""The meaning of precision "auto" on each device."""

from __future__ import annotations

import inspect

import pytest
import torch

from betavae_fast.training import precision as decisions
from betavae_fast.training.precision import autocast, resolve_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def asked_of_the_device(monkeypatch):
    """Restore the real query, also where --native-bf16 answers it for all other tests."""
    monkeypatch.setattr(decisions, "has_native_bf16", inspect.unwrap(decisions.has_native_bf16))


@pytest.mark.parametrize(
    "capabilities, native",
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, True),
        ({"architecture": "aarch64", "bf16": True}, True),
        ({"architecture": "aarch64", "bf16": False}, False),
        ({"architecture": "abacus"}, False),
    ],
    ids=str,
)
def test_auto_is_bf16_on_cpus_with_matrix_units_for_it(monkeypatch, capabilities, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU) is (torch.bfloat16 if native else torch.float32)
    assert resolve_precision("fp32", CPU) is torch.float32
    assert resolve_precision("bf16", CPU) is torch.bfloat16


def test_a_torch_that_cannot_tell_means_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert resolve_precision("auto", CPU) is torch.float32


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_products_are_in_the_precision_even_within_another_autocast(precision):
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16), autocast(CPU, precision):
        assert (x @ x).dtype is precision


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_is_bf16_on_gpus_since_ampere():
    native = torch.cuda.get_device_capability() >= (8, 0)
    assert resolve_precision("auto", torch.device("cuda")) is (torch.bfloat16 if native else torch.float32)

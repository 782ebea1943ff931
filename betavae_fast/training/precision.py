"""The precision of the networks' arithmetic. Weights, optimizer, moments, KL and losses are always float32."""

from __future__ import annotations

import torch

from betavae_fast.choices import Precision

# avx512_bf16 alone does not count. On two cores of one machine a step of 64 images takes 40 ms instead of 59 in float32,
# of another it took 80 instead of 60. And the weight gradients of oneDNN wait by spinning, which costs a factor of 10 to
# 100 while other programs run.
_NATIVE_BF16 = {"x86_64": ("amx_bf16",), "aarch64": ("bf16",)}


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of that precision, bfloat16 or float32; "auto" is bfloat16 if ``device`` has matrix units for it."""
    if precision == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def has_native_bf16(device: torch.device) -> bool:
    """Tell whether ``device`` has matrix units for bfloat16, which make it faster than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # not in the oldest torch we support
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities[name] for name in _NATIVE_BF16.get(capabilities["architecture"], ()))
    return False


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """A context in which matrix products and convolutions compute in ``precision``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is torch.bfloat16)

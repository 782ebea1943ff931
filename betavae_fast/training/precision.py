"""The precision of the networks' arithmetic. Weights, optimizer, moments, KL and losses are always float32."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from betavae_fast.choices import Precision
from betavae_fast.nn import BetaVAE, ReconstructionLoss
from betavae_fast.processes import least_of_processes

LEAST_SPEEDUP = 1.1
"""The speed-up over float32 from which "auto" takes bfloat16 on a CPU. Less is not worth the digits."""
ROWS = 64
"""The images that are timed at most. Fewer would count the cast of the weights too much, more would take too long."""
_ROUNDS, _SECONDS = (3, 10), 0.3
_BF16_IS_NATIVE = {"x86_64": ("amx_bf16",), "aarch64": ("bf16",)}
_speedups: dict[object, float] = {}


class PrecisionChoice(NamedTuple):
    """The precision that "auto" takes, and the reason in words."""

    precision: Literal["fp32", "bf16"]
    why: str


def choose_precision(model: BetaVAE, rows: int, device: torch.device) -> PrecisionChoice:
    """The precision in which "auto" trains ``model`` with parts of ``rows`` images on ``device``.

    On a CPU it is the faster one, which is measured once in a process for each network, number of images and number of
    threads; of several processes the one that gains least decides. Neither the model, which is on the CPU then, nor
    torch's generator changes.
    """
    if device.type != "cpu":
        native = has_native_bf16(device)
        return PrecisionChoice(
            "bf16" if native else "fp32", f"{device} has {'' if native else 'no '}matrix units for bf16"
        )
    speedup = least_of_processes(round(100 * bf16_speedup(model, rows))) / 100
    if speedup >= LEAST_SPEEDUP:
        return PrecisionChoice("bf16", f"{speedup:.2f} times as fast as float32 here (measured)")
    if speedup:
        return PrecisionChoice(
            "fp32", f"bf16 is {speedup:.2f} times as fast here (measured), not {LEAST_SPEEDUP} times"
        )
    return PrecisionChoice("fp32", "oneDNN has no bf16 for this CPU")


def bf16_speedup(model: BetaVAE, rows: int) -> float:
    """The time of forward and backward on this CPU in float32 over that in bfloat16; 0 where oneDNN has no bfloat16."""
    if not onednn_has_bf16():
        return 0.0
    rows = min(rows, ROWS)
    # Threads that wait for each other make the speed-up depend on their number.
    key = (repr(model), model.image_shape, rows, torch.get_num_threads())
    if key not in _speedups:
        images = torch.zeros(rows, *model.image_shape, dtype=torch.uint8)
        _round(model, images)  # oneDNN makes its kernels
        least, most = _ROUNDS
        rounds: list[tuple[float, float]] = []
        while len(rounds) < least or (len(rounds) < most and sum(map(sum, rounds)) < _SECONDS):
            rounds.append(_round(model, images))
        # Medians, not minima: beside a busy program the fastest call is the one that did not have to wait.
        fp32, bf16 = map(median, zip(*rounds, strict=True))
        _speedups[key] = fp32 / bf16
    return _speedups[key]


def _round(model: BetaVAE, images: Tensor) -> tuple[float, float]:
    return _seconds(model, images, torch.float32), _seconds(model, images, torch.bfloat16)


@torch.enable_grad()
def _seconds(model: BetaVAE, images: Tensor, precision: torch.dtype) -> float:
    """The time of a forward and backward pass, which leaves no gradient."""
    start = perf_counter()
    with autocast(images.device, precision):
        out = model(images, seed=0)
        loss = ReconstructionLoss(model.likelihood)(out.decoded, images) + out.kl.sum()
    torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    return perf_counter() - start


def recorded_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision of a run that recorded ``precision``.

    Runs of earlier versions recorded "auto", which was bf16 if the device has matrix units for it.
    """
    if precision == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    return precision


def dtype_of(precision: Literal["fp32", "bf16"]) -> torch.dtype:
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def check_precision(precision: object) -> None:
    """Raise ValueError unless ``precision`` is a dtype that networks compute in: any other would be float32 silently."""
    if precision not in (torch.float32, torch.bfloat16):
        raise ValueError(f"precision must be torch.float32 or torch.bfloat16, got {precision!r}")


def has_native_bf16(device: torch.device) -> bool:
    """Tell whether ``device`` has matrix units for bfloat16."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # not in the oldest torch we support
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities[name] for name in _BF16_IS_NATIVE.get(capabilities["architecture"], ()))
    return False


def onednn_has_bf16() -> bool:
    """Tell whether oneDNN computes in bfloat16 on this CPU, be it by other instructions."""
    return bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)())


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """A context in which matrix products and convolutions compute in ``precision``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is torch.bfloat16)

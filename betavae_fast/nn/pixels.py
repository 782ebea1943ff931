"""Pixels: their conversion from bool, uint8 or float to floats in [0, 1], and the check of targets."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from betavae_fast.choices import Likelihood

_BYTES = "pass uint8 pixels as they are, or divide by 255"
_OTHER = "scale them to [0, 1], or choose a Gaussian likelihood"
_ROUNDING = 1e-4


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels as floating-point numbers of ``dtype``: bool becomes 0 or 1, uint8 is divided by 255, a
    floating-point tensor is only cast.

    Raises: TypeError for any other dtype, because its scale is unknown.

    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    if images.dtype == torch.uint8:
        return images.to(dtype) / 255
    if images.dtype == torch.bool or images.is_floating_point():
        return images.to(dtype)
    raise TypeError(f"images must be bool, uint8 or floating point, got {images.dtype}")


class TargetCheck:
    """Refuses floating-point targets outside a likelihood's range, which would spoil the training silently.

    A Bernoulli target must lie in [0, 1], up to rounding by resizing: 1e-4 or one unit in the last place. Any other
    target must be finite; one that looks like pixels 0…255 while ``scale`` is in units of [0, 1] gives one warning.

    On the CPU every target is checked. On other devices only the first is, because reading a value makes the host wait
    for the device. No target is checked while a program is compiled, exported, traced or captured, or within torch.func's
    transforms.

    Args:
        caller: the name that messages begin with.
    """

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self._looked = False
        self._warned = False

    def __call__(self, target: Tensor, likelihood: Likelihood, scale: float = 1.0) -> None:
        """Raise ValueError for a target outside the range of ``likelihood``."""
        if not target.is_floating_point() or not _can_be_read(target) or target.numel() == 0:
            return
        if self._looked and target.device.type != "cpu":
            return
        low, high = float(target.amin()), float(target.amax())
        bernoulli = likelihood == "bernoulli"
        legitimate = "lie in [0, 1]" if bernoulli else "be finite"
        found = "NaN" if math.isnan(low) else f"{low:.6g} to {high:.6g}"
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{self.caller}: targets must {legitimate}, got {found}")
        rounding = max(_ROUNDING, torch.finfo(target.dtype).eps)
        if bernoulli and (low < -rounding or high > 1 + rounding):
            remedy = _BYTES if low >= 0 and high <= 255 else _OTHER
            raise ValueError(f"{self.caller}: targets must {legitimate}, got {found}; {remedy}")
        if not bernoulli and max(-low, high) > 100 and scale <= 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.caller}: targets from {found} for a density of width {scale:g}; {_BYTES}",
                stacklevel=2,
            )
        self._looked = True


def _can_be_read(x: Tensor) -> bool:
    """Tell whether the host can read values of ``x`` at this moment."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state()
        or torch._C._len_torch_dispatch_stack()  # Tracers, and tests' stand-ins for the capture of a graph.
        or torch._C._functorch.is_functorch_wrapped_tensor(x)
        or type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__  # Fake and distributed tensors.
        or x.is_meta
        or (x.is_cuda and (torch.cuda.is_current_stream_capturing() or torch.cuda.get_sync_debug_mode()))
    )

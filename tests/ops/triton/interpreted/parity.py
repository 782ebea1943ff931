"""The comparison of the Triton backend's operators with the reference's."""

from __future__ import annotations

import torch
from torch import Tensor

from betavae_fast.ops.backends import missing

assert not missing("triton"), missing("triton")
missing("reference")


def call(op: str, backend: str, *arguments: object) -> tuple[Tensor, ...]:
    out = getattr(torch.ops.betavae_fast, f"{op}_{backend}")(*arguments)
    return out if isinstance(out, tuple) else (out,)


def check(op: str, *arguments: object, extent: Tensor) -> None:
    """Compare the Triton result with the reference's: strides, and values within a few roundings of ``extent``."""
    for got, want in zip(call(op, "triton", *arguments), call(op, "reference", *arguments), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape and got.stride() == want.stride()
        eps = torch.finfo(got.dtype).eps
        torch.testing.assert_close(
            got,
            want,
            rtol=8 * torch.finfo(torch.float32).eps + eps,
            atol=eps * 1e-3 + 1e-6 * float(extent),
            equal_nan=True,
        )

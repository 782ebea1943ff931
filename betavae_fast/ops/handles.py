"""The operators as callables. They are looked up once, because a look-up costs as much as a small kernel."""

from __future__ import annotations

from typing import Any

import torch

from betavae_fast.ops.schemas import BACKENDS, NAMESPACE


def handles(op: str) -> dict[str, Any]:
    """The implementations of ``op``, by backend."""
    return {b: getattr(getattr(torch.ops, NAMESPACE), f"{op}_{b}").default for b in BACKENDS}

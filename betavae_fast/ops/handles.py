"""The operators as callables, bound once: looking one up costs as much as a small kernel."""

from __future__ import annotations

from typing import Any

import torch

from betavae_fast.ops.schemas import BACKENDS, NAMESPACE


def handles(op: str) -> dict[str, Any]:
    """Each backend's implementation of ``op``."""
    return {b: getattr(getattr(torch.ops, NAMESPACE), f"{op}_{b}").default for b in BACKENDS}

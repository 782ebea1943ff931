"""A stand-in for a CUDA graph on the CPU: it records the operations of a call and runs them again without its Python.

The mistakes of a graph are mistakes here, too: a number that Python computed is a constant of the recording, and a tensor
that is made anew outside it is not seen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Operators that a CUDA graph cannot hold: they read a number on the host, make a tensor from the host's memory, or have a
# shape that depends on values.
FORBIDDEN = ("_local_scalar_dense", "lift_fresh", "nonzero", "unique", "masked_select", "equal")


class Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable[..., object], tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        name = operation.name().split("::")[1].split(".")[0]
        assert name not in FORBIDDEN, f"{operation.name()} cannot be part of a CUDA graph"
        result = operation(*arguments, **(keywords or {}))
        self.operations.append((operation, arguments, keywords or {}, tensors_of(result)))
        return result

    def replay(self) -> None:
        """Run the operations again, in the same order, on the current values of the recorded inputs."""
        made: dict[int, Tensor] = {}

        def current(value):
            return made.get(id(value), value) if isinstance(value, Tensor) else value

        with torch.no_grad():
            for operation, arguments, keywords, recorded in self.operations:
                arguments, keywords = tree_map(current, (arguments, keywords))
                for before, now in zip(recorded, tensors_of(operation(*arguments, **keywords)), strict=True):
                    made[id(before)] = now


def tensors_of(result) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]

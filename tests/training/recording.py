"""A stand-in for a CUDA graph on the CPU: it records the operations of a call and runs them again without its Python.

The mistakes of a graph are mistakes here, too: a number that Python computed is a constant of the recording, and a tensor
that is made anew outside it is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
        for _ in self.replayed():
            pass

    def replayed(self) -> Iterator[None]:
        """Run one of the operations again with each ``next``."""
        made: dict[int, Tensor] = {}

        def current(value):
            return made.get(id(value), value) if isinstance(value, Tensor) else value

        for operation, arguments, keywords, recorded in self.operations:
            arguments, keywords = tree_map(current, (arguments, keywords))
            with torch.no_grad():
                results = operation(*arguments, **keywords)
            for before, now in zip(recorded, tensors_of(results), strict=True):
                made[id(before)] = now
            yield

    def memory(self) -> tuple[set[int], set[int]]:
        """The addresses of the memory that the operations use, and of that part of it which they write."""
        used, written = set[int](), set[int]()
        for operation, arguments, keywords, results in self.operations:
            given = addresses((arguments, keywords))
            named = {a.name: value for a, value in zip(operation._schema.arguments, arguments, strict=False)}
            for argument in operation._schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write:
                    written |= addresses((named | keywords).get(argument.name))
            used |= given | addresses(results)
            written |= addresses(results) - given  # a view is no new memory
        return used, written


def addresses(values) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors_of(values)} - {0}


def tensors_of(result) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]

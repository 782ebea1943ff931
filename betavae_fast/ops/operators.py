"""Operators, each declared once: the signature is that of its reference in plain torch.

An operator with backends is reached as ``torch.ops.betavae_fast.<name>_<backend>.default``. The backend's own module or
compiled library implements it, under the same signature. Operators are pure unless they name what they write, and know
nothing of autograd, which the modules of ``ops`` add.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, get_type_hints

import torch
from torch import Tensor

NAMESPACE = "betavae_fast"
BACKENDS = ("reference", "eager", "cpp", "triton", "cuda")

library = torch.library.Library(NAMESPACE, "DEF")

# Arguments whose values differ from call to call: torch.compile must not specialise for them.
_SYMBOLIC = ("first_row",)
_TYPES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    bool: "bool",
    int: "int",
    float: "float",
    torch.dtype: "ScalarType",
}

Results = Callable[[Any], Any]
"""Uninitialised results, from the arguments as attributes of one object."""


def schema(function: Callable[..., Any], results: Sequence[str] = (), writes: Sequence[str] = ()) -> str:
    """The signature of ``function`` in torch's notation.

    Args:
        results: names of the results, where there are several or the only one has a name.
        writes: names of the tensors that the function writes to.

    >>> def scale(x: Tensor, factor: float, out: Tensor | None) -> tuple[Tensor, Tensor]: ...
    >>> schema(scale, results=("scaled", "rest"), writes=("out",))
    '(Tensor x, float factor, Tensor(a!)? out) -> (Tensor scaled, Tensor rest)'
    """
    hints = get_type_hints(function)
    returned = hints.pop("return")
    arguments = []
    for name, hint in hints.items():
        kind = "SymInt" if name in _SYMBOLIC else _TYPES[hint]
        arguments.append(f"{kind.replace('Tensor', 'Tensor(a!)') if name in writes else kind} {name}")
    if returned is Tensor:
        answer = f"Tensor {results[0]}" if results else "Tensor"
    elif returned is type(None):
        answer = "()"
    else:
        answer = f"({', '.join(f'Tensor {name}' for name in results)})"
    return f"({', '.join(arguments)}) -> {answer}"


def define(
    name: str,
    function: Callable[..., Any],
    empty: Results,
    results: Sequence[str] = (),
    writes: Sequence[str] = (),
) -> None:
    """Register the operator ``name`` with the signature of ``function``, and the shapes of its results."""
    signature = inspect.signature(function)

    def fake(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named).arguments
        # A fake also answers for real tensors mixed with meta ones: it must not pass off unwritten memory as a result.
        devices = {x.device for x in bound.values() if isinstance(x, Tensor)}
        if len(devices) > 1:
            raise RuntimeError(
                f"all tensors must be on one device, got {' and '.join(sorted(map(str, devices)))}"
            )
        return empty(SimpleNamespace(**bound))

    library.define(name + schema(function, results, writes), tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=library)
    if not writes:
        torch.library.register_vmap(f"{NAMESPACE}::{name}", _one_by_one(overload(name)), lib=library)


def _one_by_one(operator: Any) -> Callable[..., Any]:
    """The batching rule of ``operator``: a call for each member of the batch, so that its bits are those of that call."""

    def rule(info: Any, dims: tuple[int | None, ...], *arguments: Any) -> Any:
        if not info.batch_size:
            raise ValueError(f"{operator}: vmap needs at least one member, got none")
        pairs = list(zip(arguments, dims, strict=True))
        calls = [
            operator(*(x if dim is None else x.select(dim, i) for x, dim in pairs))
            for i in range(info.batch_size)
        ]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        results = tuple(map(torch.stack, zip(*calls, strict=True)))
        return results, (0,) * len(results)

    return rule


def overload(name: str) -> Any:
    """The operator ``name`` as a callable. To look one up costs as much as a small kernel, so modules do it once."""
    return getattr(getattr(torch.ops, NAMESPACE), name).default


class Operator:
    """An operator that every backend implements; ``operator[backend]`` calls it.

    Args:
        reference: its implementation in plain torch, of the same name and signature.
        empty, results, writes: as in :func:`define`.
    """

    def __init__(
        self,
        reference: Callable[..., Any],
        empty: Results,
        *,
        results: Sequence[str] = (),
        writes: Sequence[str] = (),
    ) -> None:
        name = reference.__name__
        self.op = reference.__module__.rpartition(".")[2]
        for backend in BACKENDS:
            define(f"{name}_{backend}", reference, empty, results, writes)
        library.impl(f"{name}_reference", reference, "CompositeExplicitAutograd")
        self._overloads = {backend: overload(f"{name}_{backend}") for backend in BACKENDS}
        OPERATORS[name] = self

    def __getitem__(self, backend: str) -> Any:
        return self._overloads[backend]


OPERATORS: dict[str, Operator] = {}
"""The operators with backends, by name; complete once ``betavae_fast.ops`` is imported."""


def op_names() -> tuple[str, ...]:
    """The names of the ops, each a module of every backend in Python, in the order of their declaration."""
    return tuple(dict.fromkeys(operator.op for operator in OPERATORS.values()))


def common_operator(
    function: Callable[..., Any],
    empty: Results,
    *,
    results: Sequence[str] = (),
    writes: Sequence[str] = (),
) -> Any:
    """Declare an operator that all backends share, named as ``function``, and return it as a callable.

    ``function`` runs on every device for which no other implementation is registered.
    """
    name = function.__name__
    define(name, function, empty, results, writes)
    library.impl(name, function, "CompositeExplicitAutograd")
    COMMON_OPERATORS.append(name)
    return overload(name)


COMMON_OPERATORS: list[str] = []
"""The names of the operators without backends; complete once ``betavae_fast.ops`` is imported."""

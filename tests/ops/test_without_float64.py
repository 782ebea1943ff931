"""A device without float64, like MPS: nothing makes a float64 tensor there, and the noise still follows the contract.

The CPU stands in for the device, in a mode that refuses what such a device refuses.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from betavae_fast import (
    PackedBits,
    bernoulli_nll,
    gaussian_kl,
    gaussian_nll,
    kl_decomposition,
    laplace_nll,
    reparameterize,
    reparameterize_kl,
)
from betavae_fast.functional import reparameterize_kl_packed
from betavae_fast.noise import make_rng, normals
from betavae_fast.ops import reductions
from betavae_fast.ops.operators import OPERATORS
from betavae_fast.ops.reductions import ESTIMATORS, REDUCTIONS

BACKENDS = ("reference", "eager")
SHAPE = (6, 10)
GREY = torch.linspace(0, 1, 60).view(SHAPE)
TARGETS: dict[str, Any] = {
    "float": GREY,
    "uint8": (255 * GREY).byte(),
    "bool": GREY > 0.5,
    "bits": PackedBits.pack(GREY > 0.5),
}
# The noise of the reference is made on the CPU, which normally has float64; here it has none.
GIVEN: dict[str, Any] = {"reference": {"noise": torch.ones(SHAPE)}, "eager": {"seed": 5}}
NLLS = {"bernoulli": bernoulli_nll, "gaussian": gaussian_nll, "laplace": laplace_nll}

Call = Callable[[Tensor, str], Any]


def calls() -> Iterator[Any]:
    """Every function with every argument that changes the path through an operator, as a function of (x, backend)."""
    for reduction in REDUCTIONS:
        options: Any = {"reduction": reduction, "logvar_range": (-1.0, 1.0) if reduction == "dim" else None}
        yield f"gaussian_kl {reduction}", lambda x, b, o=options: gaussian_kl(x, 2 * x, backend=b, **o)
        yield (
            f"reparameterize_kl {reduction}",
            lambda x, b, o=options: reparameterize_kl(x, 2 * x, backend=b, **o, **given(x, b)),
        )
    yield "reparameterize", lambda x, b: reparameterize(x, 2 * x, backend=b, **given(x, b))
    yield (
        "reparameterize_kl_packed",
        lambda x, b: reparameterize_kl_packed(torch.cat((x, 2 * x), 1), backend=b, **given(x, b)),
    )
    for likelihood_, reduction, target in (
        *(("bernoulli", reduction, "uint8") for reduction in ("none", "sample", "batchmean", "sum")),
        *((name, "batchmean", target) for name in NLLS for target in TARGETS),
    ):
        yield (
            f"{likelihood_} {reduction} {target}",
            lambda x, b, n=NLLS[likelihood_], r=reduction, t=TARGETS[target]: n(x, t, reduction=r, backend=b),
        )
    for estimator in ESTIMATORS:
        yield (
            f"kl_decomposition {estimator}",
            lambda x, b, e=estimator: kl_decomposition(
                x + 0.5, x, 0.3 * x, dataset_size=50, estimator=e, backend=b
            ),
        )


def given(x: Tensor, backend: str) -> dict[str, Any]:
    return {name: y.to(x.dtype) if isinstance(y, Tensor) else y for name, y in GIVEN[backend].items()}


CALLS: dict[str, Call] = dict(calls())


class NoFloat64(TorchDispatchMode):
    """A mode that refuses operators with float64 arguments or results."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            if isinstance(x, Tensor) and x.dtype == torch.float64:
                raise TypeError(f"{func}: this device has no float64")
        return result


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call operators as the Python functions they are, so that a mode sees their inside."""
    monkeypatch.setattr(reductions, "_WITHOUT_FLOAT64", ("cpu",))
    for backend in BACKENDS:
        for name, operator in OPERATORS.items():
            functions = importlib.import_module(f"betavae_fast.ops.{backend}.{operator.op}")
            monkeypatch.setitem(operator._overloads, backend, getattr(functions, name))


def through(call: Call, backend: str, dtype: torch.dtype) -> list[Tensor]:
    """The result of the call, its gradient, and the gradient of the gradient."""
    x = torch.linspace(-2, 2, 60).view(SHAPE).to(dtype).requires_grad_()
    outputs = call(x, backend)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    (plain,) = torch.autograd.grad(sum(y.float().sum() for y in outputs), x, retain_graph=True)
    (twice,) = torch.autograd.grad(sum(y.float().sum() for y in outputs), x, create_graph=True)
    (second,) = torch.autograd.grad(twice.float().square().sum(), x)
    return [*outputs, plain, second]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CALLS)
def test_nothing_makes_a_float64_tensor(backend: str, name: str, without_float64: None) -> None:
    """The test covers forward, backward and double backward."""
    for dtype in (torch.float32, torch.bfloat16):
        with NoFloat64():
            found = through(CALLS[name], backend, dtype)
        assert all(y.isfinite().all() for y in found)
        if backend == "eager" and "reparameterize" not in name:
            for y, expected in zip(found, through(CALLS[name], "reference", dtype), strict=True):
                torch.testing.assert_close(
                    y, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
                )


def test_the_noise_is_the_contract_s(without_float64: None) -> None:
    zero = torch.zeros(SHAPE)
    with NoFloat64():
        z = reparameterize(zero, zero, seed=7, first_row=3, backend="eager")
    assert torch.equal(z.flatten(), normals(make_rng("cpu", seed=7), 30, 60))


def test_the_mode_sees_what_it_is_to_refuse() -> None:
    with NoFloat64(), pytest.raises(TypeError, match="no float64"):
        torch.ones(3).double()

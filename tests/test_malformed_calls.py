"""Thousands of malformed calls: each is refused with a message that contains the fault, and none crashes."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from betavae_fast import (
    PackedBits,
    bernoulli_nll,
    gaussian_kl,
    gaussian_nll,
    laplace_nll,
    reparameterize,
    reparameterize_kl,
)
from betavae_fast.ops.backends import missing
from tests.backends import available_backends, fresh_process

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "reparameterize_kl": reparameterize_kl,
    "reparameterize": reparameterize,
    "gaussian_kl": gaussian_kl,
}
LIKELIHOODS: dict[str, Callable[..., Any]] = {
    "bernoulli_nll": bernoulli_nll,
    "gaussian_nll": gaussian_nll,
    "laplace_nll": laplace_nll,
}
HAS_SCALE = ("gaussian_nll", "laplace_nll")
DRAWS_NOISE = ("reparameterize_kl", "reparameterize")
REDUCES = ("reparameterize_kl", "gaussian_kl")
GOOD_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BAD_DTYPES = (
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)

# A fault changes the arguments of a good call and returns all texts that the message must contain.
Fault = st.SearchStrategy[tuple[dict[str, Any], tuple[str, ...]]]

shapes = st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple)
scalars = st.one_of(
    st.none(),
    st.text("xyz λ'\"\n", max_size=8),
    st.binary(max_size=4),
    st.floats(),
    st.complex_numbers(),
    st.lists(st.integers(-9, 9), max_size=3),
    st.dictionaries(st.integers(0, 3), st.booleans(), max_size=2),
    st.sampled_from([object, ..., NotImplemented, np.float32(2.5), np.int64(3), range(3)]),
)


def shown(x: Any) -> str:
    """The beginning of a value's repr, by which a message quotes the value."""
    return repr(x)[:40]


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, str]:
    """A tensor that is wrong where a strided floating tensor is expected, and the word for the reason."""
    if draw(st.booleans()):
        bad = draw(st.sampled_from(BAD_DTYPES))
        return torch.zeros(shape).to(bad), str(bad)
    layout = draw(st.sampled_from(["coo", "csr", "mkldnn", "nested", "jagged"]))
    plane = torch.zeros(3, 2, dtype=dtype)
    if layout == "csr":
        return plane.to_sparse_csr(), "sparse_csr"
    if layout == "mkldnn" and torch.backends.mkldnn.is_available():
        return torch.zeros(3, 2).to_mkldnn(), "mkldnn"
    if layout == "nested":
        return torch.nested.nested_tensor([plane, plane[:1]]), "nested"
    if layout == "jagged":
        return torch.nested.nested_tensor([plane, plane[:1]], layout=torch.jagged), ""
    return plane.to_sparse(), "sparse_coo"


@st.composite
def wrong_posterior(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    mu: Tensor = good["mu"]
    shape, dtype = tuple(mu.shape), mu.dtype
    which = draw(st.sampled_from(["mu", "logvar"]))
    fault = draw(st.sampled_from(["object", "tensor", "shape", "dtype", "device", "no batch", "argument"]))
    if fault == "object":
        bad = draw(st.one_of(scalars, st.integers(), st.just(np.zeros((2, 2)))))
        return {which: bad}, (which, type(bad).__name__, shown(bad)[:20])
    if fault == "tensor":
        x, reason = draw(tensors(shape, dtype))
        return {which: x}, (which, reason)
    if fault == "shape":
        other = draw(shapes.filter(lambda s: s != shape))
        return {which: torch.zeros(other, dtype=dtype)}, (str(shape), str(other))
    if fault == "dtype":
        other_dtype = draw(st.sampled_from([d for d in GOOD_DTYPES if d != dtype]))
        return {which: mu.to(other_dtype)}, (str(dtype), str(other_dtype))
    if fault == "device":
        return {which: mu.to("meta")}, ("cpu", "meta")
    if fault == "no batch":
        scalar = torch.tensor(draw(st.floats(-1, 1)), dtype=dtype)
        return {"mu": scalar, "logvar": scalar}, ("()",)
    name = draw(st.sampled_from(["sigma", "reductions", "device", "Seed"]))
    return {name: draw(scalars)}, (name,)


@st.composite
def wrong_reduction(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    known = ("none", "dim", "sample", "batchmean", "sum")
    bad = draw(
        st.one_of(
            scalars,
            st.integers(),
            st.booleans(),
            st.sampled_from(["mean", "DIM", "sum ", "batch_mean", "None", "", "dim\0"]),
            st.just(torch.zeros(2)),
        )
    )
    return {"reduction": bad}, ("reduction", shown(bad), *map(repr, known))


@st.composite
def wrong_range(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    low = draw(st.floats(-1e3, 1e3))
    bad = draw(
        st.one_of(
            scalars.filter(lambda x: x is not None and not (isinstance(x, list) and len(x) == 2)),
            st.integers(),
            st.floats(1e-3, 1e3).map(lambda step: (low + step, low)),
            st.sampled_from(
                [
                    (),
                    (1.0,),
                    (1, 2, 3),
                    (math.nan, 1.0),
                    (0.0, math.nan),
                    (None, 1.0),
                    ("a", 1.0),
                    (0, 10**400),
                    (-(10**400), 0),
                    (0, 1j),
                    "12",
                    {1.0, 3.0},
                    ([1.0], [2.0]),
                    (torch.zeros(2), torch.ones(2)),
                    (math.inf, -math.inf),
                ]
            ),
        )
    )
    return {"logvar_range": bad}, ("logvar_range", shown(bad))


@st.composite
def wrong_backend(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    absent = [name for name in ("triton", "cuda") if missing(name)]
    bad = draw(
        st.one_of(
            scalars.filter(lambda x: not isinstance(x, str)),
            st.integers(),
            st.text(max_size=8).filter(
                lambda name: name not in ("auto", "reference", "eager", "cpp", "triton", "cuda")
            ),
            st.sampled_from(["CPP", "torch", "auto ", "cuda:0", *absent]),
        )
    )
    return {"backend": bad}, ("backend", bad if bad in absent else shown(bad))


@st.composite
def wrong_seed(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    kind = draw(st.sampled_from(["object", "range", "dtype", "shape", "device", "layout"]))
    if kind == "object":
        bad = draw(st.one_of(scalars, st.booleans()).filter(lambda x: x is not None))
        return {"seed": bad}, ("seed", shown(bad))
    if kind == "range":
        bad = draw(st.one_of(st.integers(min_value=1 << 64), st.integers(max_value=-(1 << 63) - 1)))
        return {"seed": bad}, ("seed", str(bad))
    if kind == "dtype":
        dtype = draw(st.sampled_from([*GOOD_DTYPES, torch.int32, torch.uint8, torch.uint64, torch.bool]))
        return {"seed": torch.zeros(2, dtype=dtype)}, ("seed", str(dtype))
    if kind == "shape":
        shape = draw(st.one_of(shapes, st.just(())).filter(lambda s: s != (2,)))
        return {"seed": torch.zeros(shape, dtype=torch.int64)}, ("seed", "(2,)", str(shape))
    if kind == "device":
        return {"seed": torch.zeros(2, dtype=torch.int64, device="meta")}, ("seed", "cpu", "meta")
    return {"seed": torch.ones(2, dtype=torch.int64).to_sparse()}, ("seed", "sparse_coo")


@st.composite
def wrong_noise(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    mu: Tensor = good["mu"]
    shape, dtype = tuple(mu.shape), mu.dtype
    kind = draw(st.sampled_from(["object", "shape", "dtype", "device", "tensor", "gradient"]))
    if kind == "object":
        bad = draw(st.one_of(scalars, st.integers(), st.just(np.zeros(2))).filter(lambda x: x is not None))
        return {"noise": bad}, ("noise", type(bad).__name__, shown(bad)[:20])
    if kind == "shape":
        other = draw(shapes.filter(lambda s: s != shape))
        return {"noise": torch.zeros(other, dtype=dtype)}, ("noise", str(shape), str(other))
    if kind == "dtype":
        other_dtype = draw(st.sampled_from([d for d in (*GOOD_DTYPES, *BAD_DTYPES) if d != dtype]))
        return {"noise": mu.to(other_dtype)}, ("noise", str(dtype), str(other_dtype))
    if kind == "device":
        return {"noise": mu.to("meta")}, ("noise", "cpu", "meta")
    if kind == "gradient":
        return {"noise": mu.clone().requires_grad_()}, ("noise", "requires_grad")
    x, reason = draw(tensors(shape, dtype))
    return {"noise": x}, ("noise", reason)


@st.composite
def wrong_source(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A fault in the generator or in the row, or more than one source of noise."""
    kind = draw(st.sampled_from(["generator", "row", "negative row", "late row", "many"]))
    if kind == "generator":
        bad = draw(
            st.one_of(scalars, st.integers(), st.just(torch.Generator)).filter(lambda x: x is not None)
        )
        return {"generator": bad}, ("generator", shown(bad))
    if kind == "row":
        bad = draw(st.one_of(scalars, st.booleans(), st.just(torch.tensor(3))))
        return {"first_row": bad}, ("first_row", shown(bad))
    if kind == "negative row":
        bad = draw(st.integers(max_value=-1))
        return {"first_row": bad}, ("first_row", str(bad))
    if kind == "late row":
        bad = draw(st.integers(min_value=1 << 63))
        return {"first_row": bad}, ("first_row", str(bad))
    sources = {"seed": 1234, "generator": torch.Generator(), "noise": good["mu"]}
    names = draw(st.lists(st.sampled_from(list(sources)), min_size=2, unique=True))
    return {name: sources[name] for name in names}, tuple(names)


FAULTS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Fault]]] = {
    "posterior": (tuple(FUNCTIONS), wrong_posterior),
    "reduction": (REDUCES, wrong_reduction),
    "logvar_range": (tuple(FUNCTIONS), wrong_range),
    "backend": (tuple(FUNCTIONS), wrong_backend),
    "seed": (DRAWS_NOISE, wrong_seed),
    "noise": (DRAWS_NOISE, wrong_noise),
    "source": (DRAWS_NOISE, wrong_source),
}
CALLS_EACH = 300


@st.composite
def malformed_calls(draw: st.DrawFn, kind: str) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """A good call with one fault: the function's name, the arguments, and the texts that the message must contain."""
    callers, fault = FAULTS[kind]
    name = draw(st.sampled_from(callers))
    mu = torch.zeros(draw(shapes), dtype=draw(st.sampled_from(GOOD_DTYPES)))
    arguments: dict[str, Any] = {"mu": mu, "logvar": mu.clone()}
    arguments["backend"] = draw(st.sampled_from(["auto", "reference"]))
    wrong, expected = draw(fault(arguments))
    return name, {**arguments, **wrong}, expected


def decoded_name(good: dict[str, Any]) -> str:
    return "logits" if "logits" in good else "mean"


@st.composite
def wrong_pixels(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    name = decoded_name(good)
    decoded: Tensor = good[name]
    shape = tuple(decoded.shape)
    fault = draw(st.sampled_from(["object", "decoded", "target", "shape", "device", "no batch", "gradient"]))
    if fault == "object":
        which = draw(st.sampled_from([name, "target"]))
        bad = draw(st.one_of(scalars, st.integers(), st.just(np.zeros((2, 2))), st.just((decoded,))))
        return {which: bad}, (which, type(bad).__name__, shown(bad)[:20])
    if fault == "decoded":
        x, reason = draw(tensors(shape, decoded.dtype))
        return {name: x, "target": x if draw(st.booleans()) else good["target"]}, (name, reason)
    if fault == "target":
        x, reason = draw(tensors(shape, decoded.dtype).filter(lambda t: t[1] not in PIXELS_ONLY))
        return {"target": x}, ("target", reason)
    if fault == "shape":
        other = draw(shapes.filter(lambda s: s != shape))
        dtype = draw(st.sampled_from([*GOOD_DTYPES, torch.bool, torch.uint8]))
        return {"target": torch.zeros(other, dtype=dtype)}, (name, str(shape), str(other))
    if fault == "device":
        return {"target": good["target"].to("meta")}, ("cpu", "meta")
    if fault == "no batch":
        scalar = torch.tensor(draw(st.floats(-1, 1)), dtype=decoded.dtype)
        return {name: scalar, "target": scalar}, ("()", name)
    dtype = draw(st.sampled_from(GOOD_DTYPES))
    return {"target": decoded.detach().to(dtype).clone().requires_grad_()}, ("target", "requires_grad")


@st.composite
def wrong_bits(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    name = decoded_name(good)
    shape = tuple(good[name].shape)
    expected = (shape[0], -(-math.prod(shape[1:]) // 8))
    fault = draw(st.sampled_from(["object", "dtype", "shape", "device", "layout", "bare"]))
    if fault == "object":
        bad = draw(st.one_of(scalars, st.integers(), st.just(np.zeros(expected, np.uint8))))
        return {"target": PackedBits(bad)}, ("target.rows", type(bad).__name__, shown(bad)[:20])
    if fault == "dtype":
        dtype = draw(st.sampled_from([*GOOD_DTYPES, *(d for d in BAD_DTYPES if d != torch.uint8)]))
        return {"target": PackedBits(torch.zeros(expected).to(dtype))}, ("target.rows", str(dtype))
    if fault == "shape":
        other = draw(shapes.filter(lambda s: s != expected))
        rows = torch.zeros(other, dtype=torch.uint8)
        return {"target": PackedBits(rows)}, ("target.rows", str(expected), str(shape), str(other))
    rows = torch.zeros(expected, dtype=torch.uint8)
    if fault == "device":
        return {"target": PackedBits(rows.to("meta"))}, ("cpu", "meta")
    if fault == "layout":
        return {"target": PackedBits(rows.to_sparse())}, ("target.rows", "sparse_coo")
    if expected == shape:  # Bare rows are then pixels 0…255, which are valid.
        rows = rows[:, :0] if expected[1] else rows[..., None]
    return {"target": rows}, (name, str(shape), str(tuple(rows.shape)))


@st.composite
def wrong_scale(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    bad = draw(
        st.one_of(
            scalars.filter(lambda x: not isinstance(x, float)),
            st.booleans(),
            st.floats(max_value=0),
            st.integers(max_value=0),
            st.integers(min_value=1 << 1024, max_value=1 << 5000),
            st.sampled_from(
                [
                    math.nan,
                    math.inf,
                    -0.0,
                    9e-16,
                    2e15,
                    "1.0",
                    np.float64(-1),
                    np.float64("nan"),
                    np.bool_(True),
                ]
            ),
            st.sampled_from(
                [(1.0,), torch.tensor(1.0), torch.ones(3), torch.tensor(0.5, requires_grad=True)]
            ),
        )
    )
    return {"scale": bad}, ("scale", "a Tensor" if isinstance(bad, torch.Tensor) else shown(bad)[:20])


@st.composite
def wrong_nll_option(draw: st.DrawFn, good: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    known = ("batchmean", "sum", "sample", "none")
    kind = draw(st.sampled_from(["reduction", "reduction", "backend", "argument"]))
    if kind == "reduction":
        names = st.sampled_from(["dim", "mean", "SUM", "sum ", "batch_mean", "None", "", 3, torch.zeros(2)])
        bad = draw(st.one_of(scalars, st.booleans(), names))
        return {"reduction": bad}, ("reduction", shown(bad), *map(repr, known))
    if kind == "backend":
        return draw(wrong_backend(good))
    name = draw(
        st.sampled_from(["pos_weight", "weight", "seed", "eps", *(["scale"] if "logits" in good else [])])
    )
    return {name: draw(scalars)}, (name,)


PIXELS_ONLY = (str(torch.uint8), str(torch.bool))
NLL_FAULTS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Fault]]] = {
    "pixels": (tuple(LIKELIHOODS), wrong_pixels),
    "packed bits": (tuple(LIKELIHOODS), wrong_bits),
    "scale": (HAS_SCALE, wrong_scale),
    "option of a likelihood": (tuple(LIKELIHOODS), wrong_nll_option),
}


@st.composite
def malformed_nll_calls(draw: st.DrawFn, kind: str) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """The same as :func:`malformed_calls` for a likelihood."""
    callers, fault = NLL_FAULTS[kind]
    name = draw(st.sampled_from(callers))
    decoded = torch.zeros(draw(shapes), dtype=draw(st.sampled_from(GOOD_DTYPES)))
    dtype = draw(st.sampled_from([*GOOD_DTYPES, torch.bool, torch.uint8]))
    decoded.requires_grad_(draw(st.booleans()))
    arguments: dict[str, Any] = {"logits" if name == "bernoulli_nll" else "mean": decoded}
    arguments["target"] = torch.zeros(decoded.shape, dtype=dtype)
    arguments["backend"] = draw(st.sampled_from(["auto", "reference"]))
    wrong, expected = draw(fault(arguments))
    return name, {**arguments, **wrong}, expected


@pytest.mark.filterwarnings("ignore")  # torch warns that sparse and nested tensors are in beta.
@pytest.mark.parametrize("kind", [*FAULTS, *NLL_FAULTS])
def test_malformed_calls_are_refused_with_the_offending_values(kind: str) -> None:
    """There are 11 kinds of fault with 300 calls each. The message names the function and quotes the values."""
    calls = 0

    @settings(
        max_examples=CALLS_EACH,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(malformed_calls(kind) if kind in FAULTS else malformed_nll_calls(kind))
    def throw(call: tuple[str, dict[str, Any], tuple[str, ...]]) -> None:
        nonlocal calls
        calls += 1
        name, arguments, expected = call
        with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
            {**FUNCTIONS, **LIKELIHOODS}[name](**arguments)
        text = str(error.value)
        assert text.startswith(name), text
        for value in expected:
            assert value in text, f"{value!r} is not in: {text}"
        assert len(text) < 1000, "a message must be readable"

    throw()
    assert calls >= CALLS_EACH, f"hypothesis found only {calls} calls"


def test_the_malformed_calls_are_2_000_at_least() -> None:
    assert len(FAULTS) * CALLS_EACH >= 2000


@pytest.mark.parametrize("backend", available_backends())
def test_the_good_call_beneath_the_malformed_ones_is_good(backend: str) -> None:
    """Otherwise the malformed calls would be refused for another reason."""
    for dtype in GOOD_DTYPES:
        for shape in ((1,), (0,), (3, 2), (2, 0, 3), (6, 5, 4, 3)):
            mu = torch.zeros(shape, dtype=dtype)
            for function in FUNCTIONS.values():
                function(mu, mu.clone(), backend=backend, logvar_range=(-1, 1))


@pytest.mark.parametrize("backend", available_backends())
def test_the_good_likelihood_beneath_the_malformed_ones_is_good(backend: str) -> None:
    for dtype, pixels in itertools.product(GOOD_DTYPES, (*GOOD_DTYPES, torch.bool, torch.uint8)):
        for shape in ((1,), (0,), (3, 2), (2, 0, 3), (6, 5, 4, 3)):
            x, target = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=pixels)
            for name, function in LIKELIHOODS.items():
                options = {"scale": 2} if name in HAS_SCALE else {}
                for y in (target, PackedBits.pack(target)):
                    assert function(x, y, backend=backend, **options).shape == ()


@pytest.mark.parametrize("name", [*FUNCTIONS, *LIKELIHOODS])
def test_two_arguments_are_positional_and_no_more(name: str) -> None:
    """A seed must not be taken for a reduction, or the other way round."""
    x = torch.zeros(2, 2)
    function = {**FUNCTIONS, **LIKELIHOODS}[name]
    with pytest.raises(TypeError, match=name):
        function(x, x, "sum")
    with pytest.raises(TypeError, match=name):
        function(x)


def raw_calls(backend: str) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Calls of the operators below the functions, which check their arguments themselves."""
    x, rng, inf = torch.zeros(4, 3), torch.zeros(2, dtype=torch.int64), math.inf
    forward = (x, x, rng, None, 0, -inf, inf, 1)
    backward = (x, torch.zeros(3), x, x, rng, None, 0, -inf, inf, 1, True, True)
    changes: dict[str, dict[int, Any]] = {
        "mu of another shape": {0: torch.zeros(3, 4)},
        "logvar of fewer rows": {1: torch.zeros(2, 3)},
        "logvar of more dimensions": {1: torch.zeros(4, 3, 1)},
        "0-d": {0: torch.zeros(()), 1: torch.zeros(())},
        "integers": {0: x.long(), 1: x.long()},
        "complex": {0: x.cfloat(), 1: x.cfloat()},
        "logvar of another dtype": {1: x.double()},
        "logvar without data": {1: x.to("meta")},
        "neither rng nor noise": {2: None},
        "short rng": {2: rng[:1]},
        "long rng": {2: torch.zeros(3, dtype=torch.int64)},
        "0-d rng": {2: rng[0]},
        "float rng": {2: rng.double()},
        "int32 rng": {2: rng.int()},
        "rng without data": {2: rng.to("meta")},
        "noise of fewer rows": {2: None, 3: x[:2]},
        "noise of another dtype": {2: None, 3: x.double()},
        "noise without data": {2: None, 3: x.to("meta")},
        "negative reduction": {7: -1},
        "unknown reduction": {7: 5},
        "huge reduction": {7: 1 << 40},
    }
    calls: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for what, change in changes.items():
        arguments = tuple(change.get(i, a) for i, a in enumerate(forward))
        calls[f"latent_forward: {what}"] = (f"latent_forward_{backend}", arguments)
        if "reduction" not in what:
            calls[f"latent_sample: {what}"] = (f"latent_sample_{backend}", arguments[:7])
        if "rng" not in what and "noise" not in what:
            calls[f"latent_kl: {what}"] = (f"latent_kl_{backend}", (*arguments[:2], *arguments[5:]))
        both = tuple({i + 2: a for i, a in change.items()}.get(i, a) for i, a in enumerate(backward))
        calls[f"latent_backward: {what}"] = (f"latent_backward_{backend}", both)
    for what, change in {
        "grad_z of fewer rows": {0: x[:2]},
        "grad_z without data": {0: x.to("meta")},
        "grad_z of integers": {0: x.long()},
        "grad_z of another dtype": {0: x.double()},
        "grad_kl of another shape": {1: torch.zeros(2)},
        "grad_kl of another reduction": {1: x},
        "grad_kl of another dtype": {1: torch.zeros(3).half()},
        "grad_kl without data": {1: torch.zeros(3, device="meta")},
    }.items():
        both = tuple(change.get(i, a) for i, a in enumerate(backward))
        calls[f"latent_backward: {what}"] = (f"latent_backward_{backend}", both)
    return {**calls, **raw_likelihood_calls(backend)}


def raw_likelihood_calls(backend: str) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Calls with (decoded, target, packed, likelihood, scale, reduction), and a gradient or two before them."""
    x, bits, reduction = torch.zeros(4, 9), torch.zeros(4, 2, dtype=torch.uint8), 4
    changes: dict[str, dict[int, Any]] = {
        "target of another shape": {1: torch.zeros(9, 4)},
        "target of fewer images": {1: x[:2]},
        "target of fewer pixels": {1: x[:, :5]},
        "target to broadcast": {1: x[:, :1]},
        "target of more dimensions": {1: x[..., None]},
        "target of integers": {1: x.long()},
        "complex target": {1: x.cfloat()},
        "target without data": {1: x.to("meta")},
        "0-d": {0: torch.zeros(()), 1: torch.zeros(())},
        "integers": {0: x.long()},
        "complex": {0: x.cfloat()},
        "bits of fewer images": {1: bits[:3], 2: True},
        "bits of fewer bytes": {1: bits[:, :1], 2: True},
        "bits of more bytes": {1: torch.zeros(4, 3, dtype=torch.uint8), 2: True},
        "bits in one row": {1: bits.flatten(), 2: True},
        "bits of bools": {1: bits.bool(), 2: True},
        "bits of floats": {1: bits.float(), 2: True},
        "bits with strides": {1: torch.zeros(2, 4, dtype=torch.uint8).t(), 2: True},
        "bits without data": {1: bits.to("meta"), 2: True},
        "negative likelihood": {3: -1},
        "unknown likelihood": {3: 3},
        "huge likelihood": {3: 1 << 40},
        "negative reduction": {5: -1},
        "a latent's reduction": {5: 1},
        "unknown reduction": {5: 5},
        "huge reduction": {5: 1 << 40},
    }
    good = (x, x, False, 0, 1.0, reduction)
    one = torch.ones(())
    calls: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for what, change in changes.items():
        arguments = tuple(change.get(i, a) for i, a in enumerate(good))
        calls[f"likelihood_forward: {what}"] = (f"likelihood_forward_{backend}", (*arguments, True))
        calls[f"likelihood_forward, no gradient: {what}"] = (
            f"likelihood_forward_{backend}",
            (*arguments, False),
        )
        calls[f"likelihood_backward: {what}"] = (f"likelihood_backward_{backend}", (one, *arguments))
        finish = (torch.empty(x.shape), one + 1, *arguments)
        calls[f"likelihood_finish: {what}"] = (f"likelihood_finish_{backend}", finish)
    gradients: dict[str, Tensor] = {
        "of another shape": torch.ones(3),
        "of another reduction": x,
        "of another dtype": one.double(),
        "of half width": one.half(),
        "of integers": one.long(),
        "without data": one.to("meta"),
    }
    for what, g in gradients.items():
        calls[f"likelihood_backward: grad_nll {what}"] = (f"likelihood_backward_{backend}", (g, *good))
        calls[f"likelihood_finish: grad_nll {what}"] = (f"likelihood_finish_{backend}", (x.clone(), g, *good))
    for what, left in {
        "of another shape": torch.zeros(9, 4),
        "of fewer images": torch.zeros(2, 9),
        "of another dtype": x.double(),
        "of half width": x.half(),
        "without elements": torch.zeros(0),
        "without data": x.to("meta"),
    }.items():
        calls[f"likelihood_finish: grad {what}"] = (f"likelihood_finish_{backend}", (left, one + 1, *good))
    return calls


@cache
def raw_outcomes(backend: str) -> dict[str, str]:
    """Run the calls in a process of their own, so that a segmentation fault ends only that process."""
    process = fresh_process("-m", "tests.test_malformed_calls", backend)
    outcomes = dict(json.loads(line) for line in process.stdout.splitlines())
    assert process.returncode == 0, f"crashed after {list(outcomes)[-1:]}: {process.stderr}"
    assert outcomes.keys() == raw_calls(backend).keys()
    return outcomes


@pytest.mark.parametrize("backend", available_backends("cpp"))
def test_raw_operators_raise_rather_than_crash(backend: str) -> None:
    assert not {what for what, outcome in raw_outcomes(backend).items() if outcome == "accepted"}


def main(backend: str) -> None:
    missing(backend)
    for what, (name, arguments) in raw_calls(backend).items():
        try:
            found = getattr(torch.ops.betavae_fast, name).default(*arguments)
            # A call with a tensor without data computes nothing, so it need not be refused.
            found = found if isinstance(found, tuple) else (found,)
            computed = any(x is None or x.device.type != "meta" for x in found)
            outcome = "accepted" if computed else "without data"
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            outcome = str(error)
        print(json.dumps((what, outcome)), flush=True)


if __name__ == "__main__":
    import sys

    main(sys.argv[1])

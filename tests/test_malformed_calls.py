"""Thousands of malformed calls: each is refused in words that hold what was wrong, and none crashes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from betavae_fast import gaussian_kl, reparameterize, reparameterize_kl
from betavae_fast.ops.backends import missing
from tests.backends import available_backends, fresh_process

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "reparameterize_kl": reparameterize_kl,
    "reparameterize": reparameterize,
    "gaussian_kl": gaussian_kl,
}
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

# A fault changes the arguments of a good call and returns what the message must hold, all of it.
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
    """How a message quotes a value: by its repr, of which the beginning is enough."""
    return repr(x)[:40]


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, str]:
    """A tensor that is wrong where a strided floating tensor is asked for, and the word for why."""
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
                lambda name: name not in ("auto", "reference", "cpp", "triton", "cuda")
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
    """The generator, the row, or more than one source of noise."""
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
    """A good call with one fault: the function's name, the arguments and what the message must hold."""
    callers, fault = FAULTS[kind]
    name = draw(st.sampled_from(callers))
    mu = torch.zeros(draw(shapes), dtype=draw(st.sampled_from(GOOD_DTYPES)))
    arguments: dict[str, Any] = {"mu": mu, "logvar": mu.clone()}
    arguments["backend"] = draw(st.sampled_from(["auto", "reference"]))
    wrong, expected = draw(fault(arguments))
    return name, {**arguments, **wrong}, expected


@pytest.mark.filterwarnings("ignore")  # torch warns that sparse and nested tensors are in beta.
@pytest.mark.parametrize("kind", FAULTS)
def test_malformed_calls_are_refused_with_the_offending_values(kind: str) -> None:
    """7 kinds of fault, 300 calls each; the message names the function and quotes the values."""
    calls = 0

    @settings(
        max_examples=CALLS_EACH,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(malformed_calls(kind))
    def throw(call: tuple[str, dict[str, Any], tuple[str, ...]]) -> None:
        nonlocal calls
        calls += 1
        name, arguments, expected = call
        with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
            FUNCTIONS[name](**arguments)
        text = str(error.value)
        assert text.startswith(name), text
        for value in expected:
            assert value in text, f"{value!r} is not in: {text}"
        assert len(text) < 1000, "a message is for reading"

    throw()
    assert calls >= CALLS_EACH, f"hypothesis found only {calls} calls"


def test_the_malformed_calls_are_2_000_at_least() -> None:
    assert len(FAULTS) * CALLS_EACH >= 2000


@pytest.mark.parametrize("backend", available_backends())
def test_the_good_call_beneath_the_malformed_ones_is_good(backend: str) -> None:
    """Otherwise they would be refused for another reason."""
    for dtype in GOOD_DTYPES:
        for shape in ((1,), (0,), (3, 2), (2, 0, 3), (6, 5, 4, 3)):
            mu = torch.zeros(shape, dtype=dtype)
            for function in FUNCTIONS.values():
                function(mu, mu.clone(), backend=backend, logvar_range=(-1, 1))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_two_arguments_are_positional_and_no_more(name: str) -> None:
    """A seed that is taken for a reduction, or the other way round."""
    x = torch.zeros(2, 2)
    with pytest.raises(TypeError, match=name):
        FUNCTIONS[name](x, x, "dim")
    with pytest.raises(TypeError, match=name):
        FUNCTIONS[name](x)


def raw_calls(backend: str) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Calls of the operators beneath, which nothing checks but themselves."""
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
    return calls


@pytest.mark.parametrize("backend", available_backends("cpp"))
def test_raw_operators_raise_rather_than_crash(backend: str) -> None:
    """In a process of its own, which a segmentation fault would end alone."""
    process = fresh_process("-m", "tests.test_malformed_calls", backend)
    outcomes = dict(json.loads(line) for line in process.stdout.splitlines())
    assert process.returncode == 0, f"crashed after {list(outcomes)[-1:]}: {process.stderr}"
    assert outcomes.keys() == raw_calls(backend).keys()
    assert not [what for what, outcome in outcomes.items() if outcome == "accepted"]


def main(backend: str) -> None:
    missing(backend)
    for what, (name, arguments) in raw_calls(backend).items():
        try:
            found = getattr(torch.ops.betavae_fast, name).default(*arguments)
            # One tensor without data makes a call that computes nothing, which is no harm.
            computed = any(x.device.type != "meta" for x in (found if isinstance(found, tuple) else (found,)))
            outcome = "accepted" if computed else "without data"
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            outcome = str(error)
        print(json.dumps((what, outcome)), flush=True)


if __name__ == "__main__":
    import sys

    main(sys.argv[1])

"""Every launch of the Triton operators compiles, for GPUs that need not be present."""

from __future__ import annotations

import importlib
import os
import pkgutil
from functools import cache
from itertools import combinations

import pytest
import torch

triton = pytest.importorskip("triton")
from triton.runtime.jit import JITFunction  # noqa: E402

from benchmarks.machine_code.triton import CAPABILITIES, Launch, compiled  # noqa: E402
from betavae_fast.ops import triton as backend  # noqa: E402
from betavae_fast.ops.kl_parts import SMALLEST_LOGVAR  # noqa: E402
from betavae_fast.ops.operators import COMMON_OPERATORS, OPERATORS  # noqa: E402
from betavae_fast.ops.reductions import ESTIMATORS, LIKELIHOODS, REDUCTIONS  # noqa: E402
from betavae_fast.ops.triton.sums import ABSENT  # noqa: E402
from tests.ops.triton.launches import ARGUMENTS, FAMILIES, launches  # noqa: E402

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
)

# Constants that are not flags: their values, or None for a number of slots, which chooses no code.
_CONSTANTS = {
    "KL": {ABSENT.value, *(REDUCTIONS[name] for name in ("none", "dim", "sample", "sum"))},
    "NLL": {REDUCTIONS[name] for name in ("none", "sample", "sum")},
    "LIKELIHOOD": set(LIKELIHOODS.values()),
    "ESTIMATOR": set(ESTIMATORS.values()),
    "UNIT": {1, 2, 4, 8},
    "RUN": {4, 8},
    "BLOCKS": {1, 2, 4, 8, 16},
    "FLOOR": set(SMALLEST_LOGVAR.values()),
    **dict.fromkeys(("BLOCK", "ROWS", "COLS", "DIMS", "OWN", "TILE", "NEAR_TILE", "PARTIALS", "SUMS")),
}

_Trait = tuple[str, str, object]


def _known(name: str, value: object) -> object:
    """The compiler's knowledge of an argument."""
    if name.isupper() or value is None:
        return value
    if isinstance(value, torch.Tensor):
        return value.dtype
    if isinstance(value, float):
        return torch.float32
    return torch.int32 if -(1 << 31) <= value < 1 << 31 else torch.int64


def _traits(launch: Launch) -> frozenset[_Trait]:
    """The (kernel, parameter, knowledge of the compiler) triples of a launch."""
    return frozenset(
        (launch.kernel.__name__, name, _known(name, value))
        for name, value in launch.arguments.items()
        if _CONSTANTS.get(name, name) is not None
    )


def _pairs(traits: frozenset[_Trait]) -> frozenset[frozenset[_Trait]]:
    """All pairs of traits that choose between branches: constants, and whether a tensor is given."""
    flags = [
        (kernel, name, known is None if name.endswith("_ptr") else known)
        for kernel, name, known in traits
        if name.endswith("_ptr") or (name.isupper() and name not in ("UNIT", "RUN"))
    ]
    return frozenset(map(frozenset, combinations(flags, 2)))


@cache
def _chosen(family: str) -> dict[int, list[Launch]]:
    """A few launches for each GPU that together have every trait, and for one of the GPUs every pair of flags."""
    by_traits = {_traits(launch): launch for launch in launches(family)}
    of_pairs = {traits: _pairs(traits) for traits in by_traits}
    pairs = frozenset().union(*of_pairs.values())
    chosen: dict[int, list[Launch]] = {capability: [] for capability in CAPABILITIES}
    for capability in CAPABILITIES:
        missing = frozenset().union(*by_traits)
        while missing or (pairs and capability == CAPABILITIES[-1]):
            best = max(by_traits, key=lambda t: (len(t & missing), len(of_pairs[t] & pairs)))
            chosen[capability].append(by_traits[best])
            missing, pairs = missing - best, pairs - of_pairs[best]
    return chosen


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_launch_compiles(family: str, capability: int) -> None:
    for launch in _chosen(family)[capability]:
        compiled(launch, capability)


def test_no_kernel_and_no_branch_is_left_out() -> None:
    on_cpus = {"convolution", "convolution_backward"}
    assert {*OPERATORS, *COMMON_OPERATORS} - on_cpus <= set(ARGUMENTS)
    seen: dict[tuple[str, str], set[object]] = {}
    for family in FAMILIES:
        for kernel, name, value in frozenset().union(*map(_traits, launches(family))):
            seen.setdefault((kernel, name), set()).add(value)
    modules = [
        importlib.import_module(m.name)
        for m in pkgutil.iter_modules(backend.__path__, f"{backend.__name__}.")
    ]
    # Functions that name arguments not to specialise for are kernels.
    kernels = {
        f for m in modules for f in vars(m).values() if isinstance(f, JITFunction) and f.do_not_specialize
    }
    assert {kernel.__name__ for kernel in kernels} == {kernel for kernel, _ in seen}
    for kernel in kernels:
        for parameter in kernel.params:
            wanted = _CONSTANTS.get(parameter.name, {True, False}) if parameter.is_constexpr else None
            if wanted:
                assert seen[kernel.__name__, parameter.name] == wanted, f"{kernel.__name__}, {parameter.name}"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_number_is_worth_a_variant(family: str) -> None:
    """Sizes and strides differ from batch to batch. No variant may be compiled for one of them, and none may be sometimes
    an integer and sometimes a float.
    """
    found = launches(family)
    for kernel in {launch.kernel for launch in found}:
        numbers = [p.name for p in kernel.params if not p.is_constexpr and not p.name.endswith("_ptr")]
        for name in numbers:
            values = [launch.arguments[name] for launch in found if launch.kernel is kernel]
            assert len({type(value) for value in values}) == 1, f"{kernel.__name__}, {name}"
            assert isinstance(values[0], float) or name in kernel.do_not_specialize, (
                f"{kernel.__name__}, {name}"
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_grids_are_no_larger_than_a_gpu_takes(family: str) -> None:
    for launch in launches(family):
        x, *others = launch.grid
        assert 0 < x < 1 << 31 and all(0 < n < 1 << 16 for n in others), (launch.kernel.__name__, launch.grid)

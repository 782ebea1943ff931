"""The decomposition of the KL in every backend, compared with a brute force over all pairs, and its special cases.

The brute force (``tests/budget.py``) shares nothing with the reference; it writes out the weights and the gradients.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from betavae_fast import kl_decomposition
from betavae_fast.functional import KLDecomposition
from betavae_fast.ops.backends import cpu_capability
from betavae_fast.ops.reductions import ESTIMATORS
from tests.backends import CPU_CAPABILITIES, ROOT, available_backends, fresh_process, require_cpu_capability
from tests.budget import (
    Budget,
    LogDensities,
    Parts,
    exact_log_densities,
    exact_parts,
    pair_weights,
    plain_log_densities,
    plain_parts,
)
from tests.layouts import LAYOUTS, dense, fits, lay_out

pytestmark = pytest.mark.usefixtures("poisoned_memory")

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NARROW = DTYPES[:3]
LOGVARS = {"|v|<=1": 1.0, "|v|<=4": 4.0, "|v|<=20": 20.0}
VALUES, GRADIENTS = ("joint", "marginals"), ("grad_z", "grad_mu", "grad_logvar")
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
# Batches that do not fill a block, and latents that do not fill a vector.
SIZES = ((2, 1), (17, 3), (33, 16), (64, 10))
EVERY_BACKEND = pytest.mark.parametrize("backend", available_backends())
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
EVERY_ESTIMATOR = pytest.mark.parametrize("estimator", ESTIMATORS)
CPP = pytest.mark.parametrize("backend", available_backends("cpp"))

Posteriors = tuple[Tensor, Tensor, Tensor]


def draw(
    batch: int, dim: int, dtype: torch.dtype = torch.float32, logvars: float = 4.0, seed: int = 0
) -> Posteriors:
    """z, μ and log σ², like those of an encoder and a sampler."""
    g = torch.Generator().manual_seed(seed)
    mu = torch.randn(batch, dim, generator=g).to(dtype)
    logvar = torch.empty(batch, dim).uniform_(-logvars, logvars, generator=g).to(dtype)
    z = mu.double() + torch.exp(0.5 * logvar.double()) * torch.randn(batch, dim, generator=g)
    limit = 0.1 * torch.finfo(dtype).max
    return z.clamp(-limit, limit).to(dtype), mu, logvar


def upstream(z: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The gradients for the log-densities, different for every element."""
    g = torch.Generator().manual_seed(100 + seed)
    wide = torch.promote_types(z.dtype, torch.float32)
    return torch.randn(len(z), generator=g, dtype=wide), torch.randn(z.shape, generator=g, dtype=wide)


def forward(
    backend: str, z: Tensor, mu: Tensor, logvar: Tensor, first_row: int, dataset_size: int, estimator: str
) -> tuple[Tensor, Tensor]:
    """Call the raw operator."""
    operator = getattr(torch.ops.betavae_fast, f"log_densities_forward_{backend}").default
    joint, marginals = operator(z, mu, logvar, first_row, dataset_size, ESTIMATORS[estimator])
    return joint, marginals


def fused(
    backend: str, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int, estimator: str, *grads: Tensor
) -> LogDensities:
    """Call the raw operators, forward and backward."""
    joint, marginals = forward(backend, z, mu, logvar, 0, dataset_size, estimator)
    operator = getattr(torch.ops.betavae_fast, f"log_densities_backward_{backend}").default
    arguments = z, mu, logvar, joint, marginals, 0, dataset_size, ESTIMATORS[estimator]
    return LogDensities(joint, marginals, *operator(*(g.to(joint.dtype) for g in grads), *arguments))


def decomposed(
    backend: str,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: int = 1000,
    estimator: str = "mss",
    weights: tuple[float, ...] = (1.0, 6.0, -0.5),
) -> Parts:
    """Call the public function. The gradients are those of ``weights`` · the parts, whose weights differ."""
    leaves = [x.detach().requires_grad_() for x in (z, mu, logvar)]
    parts = kl_decomposition(*leaves, dataset_size=dataset_size, estimator=estimator, backend=backend)
    grads = torch.autograd.grad(sum(w * x for w, x in zip(weights, parts, strict=True)), leaves)
    return Parts(*(x.detach()[None] for x in parts), *grads)


# The error budget.


@cache
def problem(
    batch: int, dim: int, dtype: torch.dtype, logvars: float, trial: int, estimator: str
) -> tuple[tuple[Any, ...], LogDensities, LogDensities]:
    """The operators' arguments, the exact results and those of the plain formula; cached, as the brute force is slow."""
    inputs = draw(batch, dim, dtype, logvars, seed=trial)
    dataset_size = (batch, 1_000, 737_280, 10**9)[trial % 4]
    arguments = *inputs, dataset_size, estimator, *upstream(inputs[0], trial)
    return arguments, exact_log_densities(*arguments), plain_log_densities(*arguments)


def check(
    backend: str,
    dtype: torch.dtype,
    logvars: str,
    fields: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...] = SIZES,
) -> None:
    """Check the operators' results against the budget. The trials even out the luck of a small problem."""
    for estimator in ESTIMATORS:
        for batch, dim in sizes:
            budgets = {field: Budget() for field in fields}
            for trial in range(24 if batch * dim < 64 else 8 if dtype == torch.float64 else 4):
                arguments, exact, plain = problem(batch, dim, dtype, LOGVARS[logvars], trial, estimator)
                actual = fused(backend, *arguments)
                # The function's values are float32 (float64 for float64), whatever the dtype of the gradients.
                values = (x.to(torch.promote_types(dtype, torch.float32)) for x in actual[:2])
                actual = LogDensities(*values, *actual[2:])
                for field, budget in budgets.items():
                    budget.add(*(getattr(x, field) for x in (actual, exact, plain)))
            for field, budget in budgets.items():
                budget.check(f"{field} ({estimator}, {batch} × {dim})")


@EVERY_BACKEND
@EVERY_DTYPE
@pytest.mark.parametrize("logvars", LOGVARS)
def test_log_densities_are_within_the_budget(backend: str, dtype: torch.dtype, logvars: str) -> None:
    check(backend, dtype, logvars, VALUES)


@EVERY_BACKEND
@pytest.mark.parametrize(
    "dtype, logvars",
    [
        *itertools.product((torch.bfloat16, torch.float16), ("|v|<=1", "|v|<=4")),
        *itertools.product((torch.float32,), ("|v|<=4", "|v|<=20")),
    ],
    ids=str,
)
def test_gradients_are_within_the_budget(backend: str, dtype: torch.dtype, logvars: str) -> None:
    check(backend, dtype, logvars, GRADIENTS)


MANY = [*((100, dtype) for dtype in DTYPES), (512, torch.float32)]


@EVERY_BACKEND
@pytest.mark.parametrize("dim, dtype", MANY, ids=str)
def test_many_channels_are_within_the_budget(backend: str, dim: int, dtype: torch.dtype) -> None:
    """A single running float32 sum over the channels would drift far beyond torch's pairwise sum."""
    check(backend, dtype, "|v|<=4", VALUES, sizes=((19, dim),))


@EVERY_BACKEND
@pytest.mark.parametrize("dim", [dim for dim, dtype in MANY if dtype == torch.float32])
def test_gradients_of_many_channels_are_within_the_budget(backend: str, dim: int) -> None:
    check(backend, torch.float32, "|v|<=4", GRADIENTS, sizes=((19, dim),))


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_ESTIMATOR
@pytest.mark.parametrize("logvars", ["|v|<=1", "|v|<=4"])
def test_everything_is_right_to_six_digits(
    backend: str, dtype: torch.dtype, estimator: str, logvars: str
) -> None:
    """The test compares the function's values and gradients with the brute force, for every number of channels up to 16
    and for batches of 1 (where that is meaningful) to 64.
    """
    for dim in range(1, 17):
        batch = (1, 2, 5, 16, 31, 64)[dim % 6]
        if estimator == "mss":
            batch = max(2, batch)
        inputs = draw(batch, dim, dtype, LOGVARS[logvars], seed=dim)
        arguments = 50_000, estimator, (1.0, 6.0, -0.5)
        actual, exact = decomposed(backend, *inputs, *arguments), exact_parts(*inputs, *arguments)
        for field, x, y in zip(Parts._fields, actual, exact, strict=True):
            expected = torch.from_numpy(y.astype(np.float64))
            scale = max(1.0, float(expected.abs().max()))
            tolerance = {torch.float32: 3e-6, torch.float64: 1e-13}.get(dtype, 3e-6)
            if field in GRADIENTS:
                tolerance += 2 * torch.finfo(dtype).eps
            # The parts are differences of two scalars of 100 nats and more.
            error = float((x.double() - expected).abs().max()) / scale
            assert error < tolerance * (1 + dim), f"{field}, {batch} × {dim}: off by {error:.2e}"


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", NARROW, ids=lambda d: str(d)[6:])
@EVERY_ESTIMATOR
def test_the_parts_are_within_the_budget(backend: str, dtype: torch.dtype, estimator: str) -> None:
    """The parts are means over the batch. The test above checks the digits in float64."""
    budgets = [Budget() for _ in range(3)]
    for trial in range(12):
        inputs = draw(48, 10, dtype, 2.0, seed=trial)
        arguments = *inputs, 50_000, estimator, (1.0, 6.0, -0.5)
        found = decomposed(backend, *arguments), exact_parts(*arguments), plain_parts(*arguments)
        for budget, *values in zip(budgets, *found, strict=False):
            budget.add(*values)
    for budget, name in zip(budgets, Parts._fields, strict=False):
        budget.check(name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
@EVERY_BACKEND
def test_gradients_of_the_parts_are_rounded_once(backend: str, dtype: torch.dtype) -> None:
    budgets = [Budget() for _ in GRADIENTS]
    for trial in range(4):
        inputs = draw(31, 7, dtype, 4.0, seed=trial)
        arguments = *inputs, 50_000, "mss", (1.0, 6.0, -0.5)
        found = decomposed(backend, *arguments), exact_parts(*arguments), plain_parts(*arguments)
        for budget, *values in zip(budgets, *(x[3:] for x in found), strict=True):
            budget.add(*values)
    for budget, name in zip(budgets, GRADIENTS, strict=True):
        budget.check(name)


@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
def test_every_instruction_set_of_the_cpp_backend_keeps_the_budget(capability: str) -> None:
    """The tests of the budget and of special values run again in a process with this instruction set."""
    require_cpu_capability(capability)
    if capability == cpu_capability():
        pytest.skip("the other tests use this instruction set")
    chosen = "(log_densities_are or parts_are or nan_stays) and cpp and float32"
    process = fresh_process(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen),
        BETAVAE_FAST_CPU_CAPABILITY=capability,
    )
    assert process.returncode == 0 and " passed" in process.stdout, process.stdout[-3000:]


# The estimators.


@EVERY_BACKEND
@EVERY_ESTIMATOR
@pytest.mark.parametrize("batch", [2, 3, 5, 16, 17, 33])
def test_the_weights_are_the_paper_s(backend: str, estimator: str, batch: int) -> None:
    """The posteriors are so far apart that a sample at μ_j sees only posterior j. So the test reads the whole matrix, one
    entry at a time, including the last row's wrap-around to the first column.
    """
    mu = 1e4 * torch.arange(batch, dtype=torch.float64).unsqueeze(1)
    found = torch.empty(batch, batch, dtype=torch.float64)
    for row in range(batch):
        for column in range(batch):
            z = mu[column : column + 1]
            joint, marginals = forward(backend, z, mu, torch.zeros_like(mu), row, 50, estimator)
            assert torch.equal(joint, marginals[:, 0])
            found[row, column] = joint[0] + HALF_LOG_TWO_PI
    expected = torch.from_numpy(pair_weights(batch, 50, estimator).astype(np.float64))
    torch.testing.assert_close(found.exp(), expected, rtol=1e-12, atol=0)


@EVERY_BACKEND
@EVERY_DTYPE
@pytest.mark.parametrize("batch", [2, 33, 300])
@pytest.mark.parametrize("dataset_size", [300, 2**53 - 1])
def test_the_weights_of_a_row_sum_to_one(
    backend: str, dtype: torch.dtype, batch: int, dataset_size: int
) -> None:
    """For equal posteriors the mixture is that posterior, and by weighted sampling 1/N of it."""
    mu = torch.full((batch, 3), 0.5, dtype=dtype)
    z = draw(batch, 3, dtype)[0]
    exact = -0.5 * (z.double() - 0.5).square() - HALF_LOG_TWO_PI
    for estimator, offset in (("mss", 0.0), ("mws", -math.log(dataset_size))):
        joint, marginals = forward(backend, z, mu, torch.zeros_like(mu), 0, dataset_size, estimator)
        tolerance = 1e-13 if dtype == torch.float64 else 2e-6
        torch.testing.assert_close(joint.double(), exact.sum(1) + offset, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(marginals.double(), exact + offset, rtol=tolerance, atol=tolerance)


@EVERY_BACKEND
@EVERY_ESTIMATOR
@EVERY_DTYPE
def test_the_parts_sum_to_the_kl_of_these_samples(backend: str, estimator: str, dtype: torch.dtype) -> None:
    """The sum is the mean of log q(z|x) − log p(z), whatever the estimator, the size of the data set and the mixture."""
    for batch, dim in SIZES:
        z, mu, logvar = draw(batch, dim, dtype)
        for dataset_size in (batch, 10**6):
            parts = kl_decomposition(
                z, mu, logvar, dataset_size=dataset_size, estimator=estimator, backend=backend
            )
            s, m, v = z.double(), mu.double(), logvar.double()
            kl = 0.5 * (s.square() - (s - m).square() / v.exp() - v).sum(1).mean()
            terms = sum(abs(float(x)) for x in parts) + 4 * float(s.square().sum(1).mean())
            unit = torch.finfo(parts[0].dtype).eps
            assert abs(float(sum(x.double() for x in parts)) - float(kl)) < 4 * unit * (terms + 3 * dim)


@EVERY_BACKEND
def test_a_batch_of_one(backend: str) -> None:
    z, mu, logvar = draw(1, 5)
    parts = decomposed(backend, z, mu, logvar, 64, "mws", (1.0, 1.0, 1.0))
    assert float(parts.mutual_information) == pytest.approx(math.log(64), abs=1e-5)
    assert float(parts.total_correlation) == pytest.approx(4 * math.log(64), abs=1e-5)
    pull = (z - mu) * torch.exp(-logvar)
    torch.testing.assert_close(parts.grad_mu, pull, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.grad_z, z - pull, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match='"mss" needs a batch of at least 2, got 1'):
        kl_decomposition(z, mu, logvar, dataset_size=64, estimator="mss", backend=backend)


@EVERY_BACKEND
@EVERY_ESTIMATOR
def test_no_images_and_no_channels(backend: str, estimator: str) -> None:
    """The mean of no images is NaN. Without channels all parts are 0, except for the constant of weighted sampling."""
    for shape in ((0, 3), (0, 0)):
        parts = decomposed(backend, *(torch.zeros(shape) for _ in range(3)), estimator=estimator)
        assert all(x.isnan() for x in parts[:3]) and all(x.shape == shape for x in parts[3:])
    constant = math.log(1000) if estimator == "mws" else 0.0
    parts = decomposed(backend, *(torch.zeros(4, 0) for _ in range(3)), estimator=estimator)
    expected = torch.tensor([[constant], [-constant], [0.0]])
    torch.testing.assert_close(torch.stack(parts[:3]), expected, rtol=0, atol=1e-6)
    assert all(x.shape == (4, 0) for x in parts[3:])


# Layouts.


@EVERY_BACKEND
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(19, 7), (33, 16), (5, 3, 2, 4)], ids=str)
def test_inputs_may_lie_anyhow_in_memory(backend: str, layout: str, shape: tuple[int, ...]) -> None:
    if not fits(layout, len(shape)):
        pytest.skip("this shape has no such layout")
    for estimator, dtype in (("mss", torch.float32), ("mws", torch.bfloat16), ("mss", torch.float64)):
        flat = draw(shape[0], math.prod(shape[1:]), dtype)
        laid = lay_out(layout, *(x.view(shape) for x in flat))
        found = decomposed(backend, *laid, estimator=estimator)
        expected = decomposed(backend, *map(dense, laid), estimator=estimator)
        for x, y in zip(found, expected, strict=True):
            # torch computes the means, adding up in the order of the memory.
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
            assert x.isfinite().all()
        assert all(x.shape == shape and x.dtype == dtype for x in found[3:])
        if backend != "reference":
            flat = [x.flatten(1) for x in laid]
            grads = upstream(flat[0])
            raw = (fused(backend, *y, 1000, estimator, *grads) for y in (flat, map(dense, flat)))
            assert all(torch.equal(x, y) for x, y in zip(*raw, strict=True))


@EVERY_BACKEND
def test_images_of_channels_are_their_flattened_rows(backend: str) -> None:
    flat = draw(9, 24)
    expected = decomposed(backend, *flat)
    found = decomposed(backend, *(x.view(9, 4, 3, 2) for x in flat))
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x.flatten(1) if x.dim() == 4 else x, y)


GRADIENT_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded": lambda x: x.flatten()[0].expand_as(x),
    "reversed twice": lambda x: x.flip(0).clone().flip(0),
    "slice": lambda x: torch.cat((x * math.nan, x, x * math.nan), -1)[..., x.shape[-1] : 2 * x.shape[-1]],
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: torch.stack((x * math.nan, x), -1)[..., 1],
    "unaligned": lambda x: torch.cat((x.flatten()[:1], x.flatten()))[1:].view(x.shape),
}


@EVERY_BACKEND
@pytest.mark.parametrize("layout", GRADIENT_LAYOUTS)
def test_gradients_may_arrive_in_any_layout(backend: str, layout: str) -> None:
    for dtype in DTYPES:
        inputs = draw(19, 7, dtype)
        laid = [GRADIENT_LAYOUTS[layout](g) for g in upstream(inputs[0])]
        found = fused(backend, *inputs, 1000, "mss", *laid)
        expected = fused(backend, *inputs, 1000, "mss", *map(dense, laid))
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


# Repeatability of the bits.


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_ESTIMATOR
@pytest.mark.parametrize("size", [(2, 1), (261, 13), (1_031, 3)], ids=str)
def test_threads_and_runs_change_no_bit(
    backend: str, dtype: torch.dtype, estimator: str, size: tuple[int, int], threads: None
) -> None:
    if backend in ("reference", "eager") and size[0] > 1000:
        pytest.skip("torch's own arithmetic depends on the number of threads for large tensors")
    inputs = draw(*size, dtype)
    found = []
    for n in (1, 2, 3, 3, 1):
        torch.set_num_threads(n)
        found.append(fused(backend, *inputs, 5_000, estimator, *upstream(inputs[0])))
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_ESTIMATOR
def test_shards_are_rows_of_the_whole(backend: str, dtype: torch.dtype, estimator: str) -> None:
    """Some rows of z against all posteriors give the same values up to the last bits, and gradients of the posteriors
    that add up to the whole.
    """
    inputs = z, mu, logvar = draw(75, 6, dtype)
    grads = upstream(z)
    whole = fused(backend, *inputs, 5_000, estimator, *grads)
    backward = getattr(torch.ops.betavae_fast, f"log_densities_backward_{backend}").default
    parts = []
    for first, last in ((0, 1), (1, 33), (33, 74), (74, 75), (75, 75)):
        rows = slice(first, last)
        joint, marginals = forward(backend, z[rows], mu, logvar, first, 5_000, estimator)
        arguments = z[rows], mu, logvar, joint, marginals, first, 5_000, ESTIMATORS[estimator]
        parts.append(
            LogDensities(joint, marginals, *backward(*(g[rows].to(joint.dtype) for g in grads), *arguments))
        )
    for field in ("joint", "marginals", "grad_z"):
        together = torch.cat([getattr(part, field) for part in parts])
        expected = getattr(whole, field)
        unit = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
        rounding = torch.finfo(expected.dtype).eps
        scale = float(expected.abs().max())
        torch.testing.assert_close(together, expected, rtol=rounding, atol=4 * unit * scale)
    for field in ("grad_mu", "grad_logvar"):
        total = sum(getattr(part, field).double() for part in parts)
        expected = getattr(whole, field).double()
        unit = max(torch.finfo(dtype).eps, 1e-6 if dtype != torch.float64 else 0)
        scale = float(expected.abs().max())
        torch.testing.assert_close(total, expected, rtol=0, atol=4 * unit * scale)


# Gradients.


@EVERY_BACKEND
@EVERY_ESTIMATOR
@pytest.mark.parametrize("part", range(3), ids=KLDecomposition._fields)
def test_gradcheck(backend: str, estimator: str, part: int) -> None:
    """Numerical differentiation confirms the first and second order, whatever the formulas."""
    inputs = [x.requires_grad_() for x in draw(4, 3, torch.float64, 1.0)]

    def function(*x: Tensor) -> Tensor:
        return kl_decomposition(*x, dataset_size=50, estimator=estimator, backend=backend)[part]

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@EVERY_BACKEND
def test_gradients_to_be_differentiated_again_are_the_same(backend: str) -> None:
    """The sample depends on the posterior, or is its mean: no path is counted twice."""
    _, mu, logvar = (x.double().requires_grad_() for x in draw(6, 3))
    noise = torch.randn(mu.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    if backend not in ("reference", "eager", "cpp"):
        mu, logvar, noise = (x.detach().float().requires_grad_(x.requires_grad) for x in (mu, logvar, noise))
    for z in (mu + (0.5 * logvar).exp() * noise, mu):
        parts = kl_decomposition(z, mu, logvar, dataset_size=100, backend=backend)
        total = parts[0] + 6 * parts[1] - 0.5 * parts[2]
        once, again = (
            torch.autograd.grad(total, (mu, logvar), create_graph=twice, retain_graph=True)
            for twice in (False, True)
        )
        torch.testing.assert_close(again, once)


@EVERY_BACKEND
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_only_the_gradients_that_are_wanted(backend: str, wanted: tuple[int, ...]) -> None:
    inputs = draw(9, 4)
    everything = decomposed(backend, *inputs)[3:]
    leaves = [x.clone().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
    parts = kl_decomposition(*leaves, dataset_size=1000, backend=backend)
    (parts[0] + 6 * parts[1] - 0.5 * parts[2]).backward()
    for i, x in enumerate(leaves):
        assert torch.equal(x.grad, everything[i]) if i in wanted else x.grad is None
    with torch.no_grad():
        assert not any(x.requires_grad for x in kl_decomposition(*leaves, dataset_size=1000, backend=backend))


@EVERY_BACKEND
def test_one_part_alone_and_backward_again(backend: str) -> None:
    """An unused part sends no gradient, and the graph can be used twice."""
    for part, weights in enumerate(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))):
        inputs = draw(9, 4)
        expected = decomposed(backend, *inputs, weights=weights)[3:]
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = kl_decomposition(*leaves, dataset_size=1000, backend=backend)[part]
        for _ in range(2):
            found = torch.autograd.grad(value, leaves, retain_graph=True)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@EVERY_BACKEND
def test_compiled_it_is_the_same(backend: str) -> None:
    """The test compiles one graph, forward and backward, without the code generator."""
    inputs = draw(13, 5)

    def loss(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        parts = kl_decomposition(z, mu, logvar, dataset_size=1000, backend=backend)
        return parts[0] + 6 * parts[1] - 0.5 * parts[2]

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for function in (compiled, compiled):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = function(*leaves)
        value.backward()
        expected = decomposed(backend, *inputs)
        torch.testing.assert_close(value.detach(), loss(*inputs))
        torch.testing.assert_close(tuple(x.grad for x in leaves), expected[3:])


@pytest.mark.parametrize("fake", [False, True], ids=["meta", "fake"])
@EVERY_DTYPE
def test_shapes_without_data(fake: bool, dtype: torch.dtype) -> None:
    with FakeTensorMode() if fake else torch.device("meta"):
        leaves = [torch.empty(6, 3, 2, dtype=dtype, requires_grad=True) for _ in range(3)]
        parts = kl_decomposition(*leaves, dataset_size=1000)
        sum(parts).backward()
    wide = torch.promote_types(dtype, torch.float32)
    assert all(x.shape == () and x.dtype == wide for x in parts)
    assert all(x.grad.shape == x.shape and x.grad.dtype == dtype for x in leaves)


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=lambda d: str(d)[6:])
def test_opcheck(backend: str, dtype: torch.dtype) -> None:
    """opcheck tests the schema (nothing mutated or aliased) and the fake against the real operator, also with symbolic
    sizes.
    """
    operators = [
        getattr(torch.ops.betavae_fast, f"log_densities_{direction}_{backend}").default
        for direction in ("forward", "backward")
    ]
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if dtype == torch.float32:
        tests.append("test_aot_dispatch_dynamic")
    for layout, first, last in (("contiguous", 0, 5), ("transposed", 2, 4), ("expanded_rows", 5, 5)):
        z, mu, logvar = lay_out(layout, *draw(5, 3, dtype))
        rows = slice(first, last)
        settings = first, 50, ESTIMATORS["mss"]
        results = operators[0](z[rows], mu, logvar, *settings)
        grads = [g[rows].to(results[0].dtype) for g in upstream(z)]
        torch.library.opcheck(operators[0], (z[rows], mu, logvar, *settings), test_utils=tests)
        arguments = *grads, z[rows], mu, logvar, *results, *settings
        torch.library.opcheck(operators[1], arguments, test_utils=tests)


# Special values.


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_ESTIMATOR
def test_special_a_sample_that_only_its_own_posterior_knows(
    backend: str, dtype: torch.dtype, estimator: str
) -> None:
    """All other terms underflow, so log q(z) is log w_ii plus the log-density of its own posterior."""
    mu = (500.0 * torch.arange(19)).to(dtype).unsqueeze(1).expand(19, 4)
    z, logvar = mu + 1, torch.zeros_like(mu)
    own = pair_weights(19, 1000, estimator)[0, 0]
    grads = upstream(z)
    found = fused(backend, z, mu, logvar, 1000, estimator, *grads)
    density = -0.5 * (z.double() - mu.double()).square() - HALF_LOG_TWO_PI
    torch.testing.assert_close(found.joint.double(), density.sum(1) + math.log(own), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.marginals.double(), density + math.log(own), rtol=1e-6, atol=0)
    pull = (grads[0].unsqueeze(1) + grads[1]) * (mu - z)
    unit = max(torch.finfo(dtype).eps, 2e-6)
    torch.testing.assert_close(found.grad_z.double(), pull.double(), rtol=unit, atol=unit)
    torch.testing.assert_close(found.grad_mu.double(), -pull.double(), rtol=unit, atol=unit)


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_ESTIMATOR
def test_special_samples_that_no_posterior_knows(backend: str, dtype: torch.dtype, estimator: str) -> None:
    """exp(−5e7) is 0 in any precision, but its logarithm and the gradients are ordinary numbers."""
    _, mu, logvar = draw(19, 4, dtype, 0.5)
    z = torch.full((19, 4), 1e4).to(dtype)
    grads = upstream(z)
    found = fused(backend, z, mu, logvar, 1000, estimator, *grads)
    exact = exact_log_densities(z, mu, logvar, 1000, estimator, *grads)
    for field, x, y in zip(LogDensities._fields, found, exact, strict=True):
        expected = torch.from_numpy(y.astype(np.float64))
        if field in VALUES:
            torch.testing.assert_close(x.double(), expected, rtol=2e-6, atol=0)
        else:
            assert x.isfinite().all() or dtype == torch.float16


@EVERY_BACKEND
@EVERY_DTYPE
def test_special_all_samples_and_posteriors_equal(backend: str, dtype: torch.dtype) -> None:
    z, mu, logvar = (torch.full((23, 6), x).to(dtype) for x in (0.75, 0.5, -0.25))
    parts = decomposed(backend, z, mu, logvar, weights=(1.0, 1.0, 1.0))
    assert abs(float(parts.mutual_information)) < 1e-5 and abs(float(parts.total_correlation)) < 1e-5
    # The gradient of the sum does not depend on the mixture; for z it is (z − (z − μ)/σ²)/B.
    expected = (0.75 - 0.25 * math.exp(0.25)) / 23
    unit = max(torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(
        parts.grad_z.double(), torch.full((23, 6), expected).double(), rtol=unit, atol=1e-7
    )


@EVERY_BACKEND
@pytest.mark.parametrize("logvar", [-80.0, -60.0, -30.0, 30.0, 60.0])
@EVERY_ESTIMATOR
def test_special_tiny_and_huge_spread(backend: str, estimator: str, logvar: float) -> None:
    """A decoder may push channels to σ = 1e-17, or as far up. All posteriors are equal, so the errors of the plain
    formula cancel and cannot serve as a measure.
    """
    v = torch.full((21, 5), logvar)
    z = torch.exp(0.5 * v) * torch.randn(21, 5, generator=torch.Generator().manual_seed(0))
    arguments = z, torch.zeros(21, 5), v, 1000, estimator, (1.0, 1.0, 0.0)
    found, exact = decomposed(backend, *arguments), exact_parts(*arguments)
    # The results are differences of these numbers: densities of 5 channels, and slopes.
    slope = float((z.double() * math.exp(-logvar)).abs().max())
    terms = dict(zip(Parts._fields, (*3 * [5 * abs(logvar)], slope, slope, 10.0), strict=True))
    for field, x, y in zip(Parts._fields, found, exact, strict=True):
        expected = torch.from_numpy(y.astype(np.float64))
        torch.testing.assert_close(x.double(), expected, rtol=1e-6, atol=1e-6 * terms[field])


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_ESTIMATOR
def test_special_nan_stays_where_it_belongs(backend: str, dtype: torch.dtype, estimator: str) -> None:
    """NaN in a channel of one posterior reaches every joint density and the marginals of that channel. NaN in one sample
    reaches only its row.
    """
    for which in range(3):
        inputs = draw(35, 5, dtype)
        inputs[which][20, 3] = math.nan
        found = fused(backend, *inputs, 1000, estimator, *upstream(inputs[0]))
        joint = torch.zeros(35, dtype=torch.bool)
        marginals = torch.zeros(35, 5, dtype=torch.bool)
        if which == 0:
            joint[20] = marginals[20, 3] = True
        else:
            joint[:] = marginals[:, 3] = True
        assert torch.equal(found.joint.isnan(), joint) and torch.equal(found.marginals.isnan(), marginals)
        if which == 0:
            assert torch.equal(found.grad_z.isnan(), joint.unsqueeze(1).expand(35, 5))
        assert all(g.isnan().all() for g in found[3:]), "each posterior contributes to the joint density"


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_ESTIMATOR
@pytest.mark.parametrize("which", range(3), ids=["z", "mu", "logvar"])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_special_infinities_give_what_the_formula_gives_in_float64(
    backend: str, dtype: torch.dtype, estimator: str, which: int, value: float
) -> None:
    """A posterior at infinity does not count, and the density of a sample at infinity is 0."""
    if which == 2 and value < 0:
        pytest.skip("σ = 0 has no density; the next test covers it")
    inputs = draw(35, 5, dtype)
    inputs[which][20, 3] = value
    joint, marginals = forward(backend, *inputs, 0, 1000, estimator)
    wide = [x.double() for x in inputs]
    plain = plain_log_densities(*wide, 1000, estimator, *upstream(wide[0]))
    tolerance = 1e-12 if dtype == torch.float64 else 5e-6
    for x, y in ((joint, plain.joint), (marginals, plain.marginals)):
        torch.testing.assert_close(x.double(), y, rtol=tolerance, atol=tolerance, equal_nan=True)


@EVERY_BACKEND
def test_special_a_posterior_without_spread_is_an_answer_not_a_crash(backend: str) -> None:
    for logvar in (-math.inf, -1e30, -1e4, -1000.0):
        z, mu, v = draw(9, 3)
        v[4, 1] = logvar
        joint, marginals = forward(backend, z, mu, v, 0, 1000, "mss")
        assert not marginals[:, (0, 2)].isnan().any()
        others = [i for i in range(9) if i != 4]
        assert logvar == -math.inf or joint[others].isfinite().all()


# Memory.

MEASURE = """
import resource, sys, torch
from betavae_fast import kl_decomposition
def step(batch):
    leaves = [torch.randn(batch, 10, requires_grad=True) for _ in range(3)]
    sum(kl_decomposition(*leaves, dataset_size=10**6, backend=sys.argv[1])).backward()
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(64)
before = peak()
step(4096)
print(peak() - before)
"""


@CPP
def test_no_pairs_in_memory(backend: str) -> None:
    """The system measures the memory, so nothing is missed: one 4096 × 4096 matrix of float32 is 64 MB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("ru_maxrss is in kilobytes on Linux")
    done = fresh_process("-c", MEASURE, backend)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40 << 10, f"{done.stdout.strip()} kB more than a batch of 64"


# Malformed calls.

SQUARE = torch.zeros(4, 3)
MALFORMED: dict[str, tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = {
    "no tensor": ({"z": [1.0]}, TypeError, ("z must be a Tensor", "list", "[1.0]")),
    "integers": ({"mu": SQUARE.long()}, TypeError, ("mu must be", "int64")),
    "sparse": ({"logvar": SQUARE.to_sparse()}, TypeError, ("logvar", "sparse_coo")),
    "dtypes": ({"logvar": SQUARE.double()}, TypeError, ("one dtype", "float32", "float64")),
    "rows": ({"mu": SQUARE[:3]}, ValueError, ("(4, 3)", "(3, 3)")),
    "channels": ({"logvar": SQUARE[:, :1]}, ValueError, ("(4, 3)", "(4, 1)")),
    "one dimension": (dict.fromkeys(("z", "mu", "logvar"), SQUARE[0]), ValueError, ("(B, ...)", "(3,)")),
    "no dimension": (dict.fromkeys(("z", "mu", "logvar"), SQUARE[0, 0]), ValueError, ("(B, ...)", "()")),
    "devices": ({"mu": SQUARE.to("meta")}, ValueError, ("one device", "cpu", "meta")),
    "small data set": ({"dataset_size": 3}, ValueError, ("at least the batch size, 4", "got 3")),
    "empty data set": ({"dataset_size": 0}, ValueError, ("got 0",)),
    "negative data set": ({"dataset_size": -7}, ValueError, ("got -7",)),
    "huge data set": ({"dataset_size": 2**53}, ValueError, ("below 2^53", str(2**53))),
    "true": ({"dataset_size": True}, TypeError, ("must be an int", "True")),
    "fraction": ({"dataset_size": 100.0}, TypeError, ("must be an int", "100.0")),
    "tensor": ({"dataset_size": torch.tensor(9)}, TypeError, ("must be an int", "tensor(9)")),
    "estimator": ({"estimator": "MSS"}, ValueError, ("'mws', 'mss'", "'MSS'")),
    "no estimator": ({"estimator": None}, ValueError, ("'mws', 'mss'", "None")),
    "unhashable estimator": ({"estimator": ["mss"]}, ValueError, ("'mws', 'mss'", "['mss']")),
    "group": ({"group": "world"}, TypeError, ("group", "'world'")),
    "backend": ({"backend": "numpy"}, ValueError, ("'numpy'", "'cpp'")),
    "no backend": ({"backend": None}, TypeError, ("backend", "None")),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_calls_are_refused_in_words(fault: str) -> None:
    changed, error, words = MALFORMED[fault]
    good = {"z": SQUARE, "mu": SQUARE, "logvar": SQUARE, "dataset_size": 100}
    with pytest.raises(error) as caught:
        kl_decomposition(**(good | changed))
    message = str(caught.value)
    assert message.startswith("kl_decomposition: ") and all(word in message for word in words), message


@CPP
def test_the_compiled_operators_refuse_what_would_lead_them_astray(backend: str) -> None:
    """Such calls would read foreign memory, or weights that are not numbers."""
    z, mu, logvar = draw(4, 3)
    joint, marginals = forward(backend, z, mu, logvar, 0, 100, "mss")
    ops = torch.ops.betavae_fast
    g, gd = (x.to(joint.dtype) for x in upstream(z))
    for posteriors, settings, word in (
        ((z, mu[:3], logvar[:3]), (0, 100, 1), "4 rows from 0"),
        ((z, mu, logvar), (-1, 100, 1), "4 rows from -1"),
        ((z, mu, logvar), (1, 100, 1), "4 rows from 1"),
        ((z, mu, logvar), (2**62, 100, 1), "posteriors"),
        ((z, mu, logvar), (0, 0, 1), "got 0"),
        ((z, mu, logvar), (0, 2, 1), "got 2"),
        ((z, mu, logvar), (0, 100, 7), "estimator"),
        ((z, mu[:, :2], logvar[:, :2]), (0, 100, 1), "shape"),
        ((z, mu, logvar[:3]), (0, 100, 1), "shape"),
        ((z[0], mu, logvar), (0, 100, 1), "shape"),
        ((z.double(), mu, logvar), (0, 100, 1), "dtype"),
        ((z.long(), mu.long(), logvar.long()), (0, 100, 1), "Long"),
    ):
        for run in (
            lambda p, s: ops.log_densities_forward_cpp.default(*p, *s),
            lambda p, s: ops.log_densities_backward_cpp.default(g, gd, *p, joint, marginals, *s),
        ):
            with pytest.raises(RuntimeError, match=word):
                run(posteriors, settings)
    for grads, results in (
        ((g[:2], gd), (joint, marginals)),
        ((g, gd[:, :2]), (joint, marginals)),
        ((g, gd), (joint[:1], marginals)),
        ((g, gd), (joint, marginals.t())),
        ((g.half(), gd), (joint, marginals)),
        ((g, gd), (joint.half(), marginals)),
    ):
        with pytest.raises(RuntimeError, match=r"joint|marginals"):
            ops.log_densities_backward_cpp.default(*grads, z, mu, logvar, *results, 0, 100, 1)


@CPP
def test_the_compiled_operators_refuse_a_first_row_that_overflows(backend: str) -> None:
    with pytest.raises(RuntimeError, match="posteriors"):
        forward(backend, *draw(4, 3), 2**63 - 1, 100, "mss")


@EVERY_BACKEND
@EVERY_DTYPE
def test_special_a_posterior_narrower_than_the_dtype_s_exponent(backend: str, dtype: torch.dtype) -> None:
    """It counts as the narrowest possible posterior in all parts, and has no gradient."""
    mu = torch.arange(6.0, dtype=dtype).view(6, 1).expand(6, 2)
    narrowest = -690.0 if dtype == torch.float64 else -150.0
    below, at = (
        decomposed(backend, mu, mu, torch.full((6, 2), logvar, dtype=dtype), 6)
        for logvar in (narrowest - 40, narrowest)
    )
    assert float(at.mutual_information) == pytest.approx(math.log(6), abs=1e-4)
    assert all(torch.equal(x, y) for x, y in zip(below[:5], at[:5], strict=True))
    assert (below.grad_logvar == 0).all() and (at.grad_logvar != 0).any()


# Several processes.

TOGETHER = """
import os
import sys
import torch
from torch import distributed
from betavae_fast import kl_decomposition
from tests.ops.test_log_densities import draw

rank, file, backend, out = int(sys.argv[1]), *sys.argv[2:]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
found = []
for estimator, rows, strided, backend in (
    ("mss", 12, False, backend), ("mws", 12, True, backend), ("mss", 1, False, backend), ("mss", 12, True, "reference")
):
    half = slice(rows * rank, rows * (rank + 1))
    inputs = draw(2 * rows, 5)
    leaves = [(x.t().contiguous().t() if strided else x)[half].detach().requires_grad_() for x in inputs]
    parts = kl_decomposition(
        *leaves, dataset_size=1000, estimator=estimator, group=distributed.group.WORLD, backend=backend
    )
    (parts[0] + 6 * parts[1] - 0.5 * parts[2]).backward()
    found.append([torch.stack(parts).detach(), *(x.grad for x in leaves)])
torch.save(found, f"{out}{rank}")
distributed.barrier()
os._exit(0)  # gloo's threads do not always survive the interpreter's end
"""


@CPP
def test_two_processes_are_one_batch(backend: str, tmp_path: Path) -> None:
    """Averaged over the processes, values and gradients equal those of one process, also with a row each."""
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    command = [str(tmp_path / "meeting"), backend, str(tmp_path / "found")]
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    ranks = [torch.load(tmp_path / f"found{rank}") for rank in range(2)]
    for case, (estimator, rows) in enumerate((("mss", 12), ("mws", 12), ("mss", 1), ("mss", 12))):
        whole = decomposed(backend, *draw(2 * rows, 5), estimator=estimator)
        values = (ranks[0][case][0] + ranks[1][case][0]) / 2
        torch.testing.assert_close(values.unsqueeze(1), torch.stack(whole[:3]), rtol=1e-5, atol=1e-5)
        for i, expected in enumerate(whole[3:], 1):
            gradient = torch.cat([rank[case][i] for rank in ranks]) / 2
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)

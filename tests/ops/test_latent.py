"""The latent op in every backend: the same bits, the error budget, special values, gradients, torch's checks.

Expected values come from float64 mathematics and from the noise contract; `latent_bits` computes digests.
"""

from __future__ import annotations

import itertools
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from betavae_fast import gaussian_kl, reparameterize, reparameterize_kl
from betavae_fast.noise import make_rng, normals
from betavae_fast.ops.operators import OPERATORS
from betavae_fast.ops.reductions import REDUCTIONS as MODES
from tests.backends import (
    CPU_CAPABILITIES,
    assert_same_sum,
    available_backends,
    fresh_process,
    require_cpu_capability,
)
from tests.budget import LOGVAR_BUCKETS, Budget, Latent, exact_latent, plain_latent, reduce
from tests.layouts import GRADIENT_LAYOUTS, LAYOUTS, dense, far_apart, fits, lay_out
from tests.ops.latent_bits import (
    FEATURES,
    REDUCTIONS,
    SEED,
    Case,
    cases,
    digest,
    noise_bits,
    noise_cases,
    result_bits,
)

pytestmark = pytest.mark.usefixtures("poisoned_memory")

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
EVERY_BACKEND = pytest.mark.parametrize("backend", available_backends())
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
EVERY_REDUCTION = pytest.mark.parametrize("reduction", REDUCTIONS)


@cache
def report_under(capability: str) -> dict[str, dict[str, str]]:
    """The output of `latent_bits` for the C++ backend in a process with instruction set ``capability``."""
    process = fresh_process("-m", "tests.ops.latent_bits", "cpp", BETAVAE_FAST_CPU_CAPABILITY=capability)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@cache
def reference_noise() -> Tensor:
    """The first elements of the sequence, a little more than 2^20, drawn by the reference."""
    rows = len(FEATURES) * (1 << 16) + (1 << 15)
    zero = torch.zeros(rows, 1)
    return reparameterize(zero, zero, seed=SEED, backend="reference").flatten()


@cache
def dense_bits(case: Case, backend: str) -> dict[str, str]:
    return result_bits(case, backend, as_dense=True)


def expected_bits(case: Case, backend: str) -> dict[str, str]:
    """The digests of contiguous copies. Layouts that keep their values share them."""
    keeps = not case.layout.startswith(("expanded", "overlapping"))
    return dense_bits(case._replace(layout="contiguous") if keeps else case, backend)


@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cpp_draws_the_reference_s_noise_bit_for_bit(capability: str, layout: str) -> None:
    """With μ = log σ² = 0, z is ε. The test covers millions of elements, with awkward widths and odd first rows."""
    require_cpu_capability(capability)
    found = report_under(capability)["noise"]
    checked = 0
    for case in noise_cases():
        if case.layout == layout:
            start = case.first_row * math.prod(case.features)
            noise = reference_noise()[start : start + math.prod(case.shape)]
            assert found[str(case)] == digest(noise.to(case.dtype)), case
            checked += noise.numel()
    assert checked >= {"contiguous": 1 << 20}.get(layout, 1 << 18 if fits(layout, 2) else 3 << 14)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reference_draws_the_contract_s_noise_in_every_layout(layout: str) -> None:
    for case in cases(1 << 9, torch.float32, torch.bfloat16):
        if case.layout == layout:
            first = case.first_row * math.prod(case.features)
            noise = normals(make_rng("cpu", seed=SEED), first, math.prod(case.shape))
            assert noise_bits(case, "reference") == digest(noise.to(case.dtype)), case


@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cpp_gives_the_same_bits_for_every_layout_and_instruction_set(capability: str, layout: str) -> None:
    """The test compares z, every reduction of the KL and both gradients with those of contiguous copies."""
    require_cpu_capability(capability)
    found = report_under(capability)["results"]
    for case in (*cases(1 << 13, torch.float32), *cases(1 << 11, *DTYPES[1:])):
        if case.layout == layout:
            for kind, bits in expected_bits(case, "cpp").items():
                assert found[f"{case}: {kind}"] == bits, f"{kind} of {case}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reference_gives_the_same_bits_for_every_layout(layout: str) -> None:
    for features, dtype in itertools.product([(10,), (37,), (3, 5, 7)], (torch.float32, torch.bfloat16)):
        if fits(layout, 1 + len(features)):
            case = Case(layout, features, dtype, 1 << 10)
            assert result_bits(case, "reference") == expected_bits(case, "reference"), case


@EVERY_BACKEND
@pytest.mark.parametrize("layout", ["contiguous", "packed", "transposed", "expanded_rows"])
@pytest.mark.parametrize("features", [(1,), (10,), (513,), (3, 5, 7)], ids=str)
def test_thread_count_changes_no_bit(
    backend: str, layout: str, features: tuple[int, ...], threads: None
) -> None:
    case = Case(layout, features, torch.float32, 1 << (17 if backend == "cpp" else 12))
    found = []
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        found.append(result_bits(case, backend))
    assert found[0] == found[1] == found[2]


@EVERY_BACKEND
@EVERY_DTYPE
@pytest.mark.parametrize("features", [(), (3,), (37,), (512,), (3, 5, 7)], ids=str)
def test_shards_of_a_batch_get_the_bits_of_the_whole(
    backend: str, dtype: torch.dtype, features: tuple[int, ...]
) -> None:
    """The test splits z, the per-sample KL and the gradients into 2, 3 and 7 uneven parts by first_row."""
    for layout in ("contiguous", "packed") if features else ("contiguous",):
        case = Case(layout, features, dtype, 1 << (11 if backend == "cpp" else 9))
        whole = expected_bits(case, backend)
        for shards in (2, 3, 7):
            for kind, bits in result_bits(case, backend, shards=shards).items():
                assert whole[kind] == bits, f"{kind} in {shards} shards"


@EVERY_BACKEND
@pytest.mark.parametrize("power", [31, 32, 33, 34, 35, 62])
@pytest.mark.parametrize("width", [1, 3, 4, 10])
def test_rows_past_32_bits_draw_their_own_noise(backend: str, power: int, width: int) -> None:
    """Elements beyond 2^32, and blocks beyond 2^32 (elements beyond 2^34), must not wrap around."""
    first_row = (1 << power) // width - 5
    zero = torch.zeros(40, width)
    expected = normals(make_rng("cpu", seed=9), first_row * width, 40 * width).view(40, width)
    assert torch.equal(reparameterize(zero, zero, seed=9, first_row=first_row, backend=backend), expected)
    logvar = zero.clone().requires_grad_()
    reparameterize(zero, logvar, seed=9, first_row=first_row, backend=backend).sum().backward()
    assert torch.equal(logvar.grad, expected / 2), "backward lost the high bits"


@pytest.mark.parametrize("backend", available_backends("cpp"))
def test_strides_past_32_bits_are_followed(backend: str, tmp_path: Path) -> None:
    try:
        far = far_apart(tmp_path, 3, 5)
    except RuntimeError as error:
        pytest.skip(f"no sparse file of 8 GB here: {error}")
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    far.copy_(values)
    z, kl = reparameterize_kl(far, far, seed=1, reduction="none", backend=backend)
    expected = reparameterize_kl(values, values, seed=1, reduction="none", backend=backend)
    assert torch.equal(z, expected.z) and torch.equal(kl, expected.kl)


@pytest.mark.parametrize("backend", available_backends("cpp"))
def test_more_than_2_31_elements_are_all_counted(backend: str) -> None:
    """The row has 2^31 + 8 equal elements, which take no memory, and its KL is their number times ½."""
    elements = (1 << 31) + 8
    mu, logvar = torch.ones(1).expand(1, elements), torch.zeros(1).expand(1, elements)
    kl = gaussian_kl(mu, logvar, reduction="sample", backend=backend)
    assert float(kl) == pytest.approx(elements / 2, rel=1e-6)


@EVERY_BACKEND
def test_the_same_call_gives_the_same_bits_again(backend: str) -> None:
    """A race or an atomic would be seen as a difference between runs."""
    case = Case("contiguous", (37,), torch.float32, 1 << (16 if backend == "cpp" else 11))
    assert all(result_bits(case, backend) == dense_bits(case, backend) for _ in range(5))


@EVERY_BACKEND
@EVERY_DTYPE
def test_z_is_the_same_with_and_without_the_kl_and_with_the_noise_given(
    backend: str, dtype: torch.dtype
) -> None:
    mu, logvar = Case("contiguous", (37,), dtype, 1 << 11).values()
    z = reparameterize(mu, logvar, seed=3, backend=backend)
    assert torch.equal(z, reparameterize_kl(mu, logvar, seed=3, backend=backend).z)
    if dtype in (torch.float32, torch.float64):  # Narrower dtypes cannot hold ε.
        noise = normals(make_rng("cpu", seed=3), 0, mu.numel()).view(mu.shape).to(dtype)
        assert torch.equal(z, reparameterize(mu, logvar, noise=noise, backend=backend))


def draw(
    shape: tuple[int, ...], dtype: torch.dtype, bucket: str, trial: int, reduction: str
) -> tuple[Tensor, ...]:
    """μ, log σ² and incoming gradients. A third of μ is 0, a third is as small as log σ², and a third has size 1."""
    g = torch.Generator().manual_seed(trial)
    low, high = LOGVAR_BUCKETS[bucket]
    logvar = torch.empty(shape).uniform_(low, high, generator=g).to(dtype)
    scale = torch.tensor([0.0, min(high, 1.0), 1.0])[torch.randint(3, shape, generator=g)]
    mu = (torch.randn(shape, generator=g) * scale).to(dtype)
    grad_z = torch.randn(shape, generator=g).to(dtype)
    kl_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    kl_shape = {"none": shape, "dim": shape[1:], "sample": shape[:1]}.get(reduction, ())
    grad_kl = torch.randn(kl_shape, generator=g).to(kl_dtype)
    return mu, logvar, grad_z, grad_kl


@cache
def contract_noise(seed: int, count: int) -> Tensor:
    return normals(make_rng("cpu", seed=seed), 0, count)


def fused(
    mu: Tensor, logvar: Tensor, grad_z: Tensor, grad_kl: Tensor, reduction: str, **options: Any
) -> Latent:
    m, v = mu.detach().requires_grad_(), logvar.detach().requires_grad_()
    z, kl = reparameterize_kl(m, v, reduction=reduction, **options)
    grads = torch.autograd.grad([z, kl], [m, v], [grad_z, grad_kl])
    return Latent(z.detach(), kl.detach(), *grads)


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_REDUCTION
@pytest.mark.parametrize("bucket", LOGVAR_BUCKETS)
def test_error_is_within_twice_plain_float32_s_plus_one_rounding(
    backend: str, dtype: torch.dtype, reduction: str, bucket: str
) -> None:
    """The test checks z, KL and both gradients. Several trials even out the luck of a scalar."""
    shape = (150, 37)
    budgets = Latent(*(Budget() for _ in Latent._fields))
    for trial in range(8 if reduction in ("batchmean", "sum") else 2):
        mu, logvar, grad_z, grad_kl = draw(shape, dtype, bucket, trial, reduction)
        eps = contract_noise(trial, mu.numel()).view(shape)
        arguments = mu, logvar, eps, grad_z, grad_kl, reduction
        actual = fused(mu, logvar, grad_z, grad_kl, reduction, seed=trial, backend=backend)
        for field in zip(budgets, actual, exact_latent(*arguments), plain_latent(*arguments), strict=True):
            field[0].add(*field[1:])
    for name, budget in budgets._asdict().items():
        budget.check(f"{name} ({reduction}, {dtype}, {bucket})")


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("shape", [(9_000, 3), (3, 9_000), (2, 3, 64, 64), (5_000,)], ids=str)
def test_long_sums_stay_within_the_budget(backend: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A single running float32 sum over a large batch or a long row would drift far beyond torch's pairwise sum."""
    for bucket in ("|v|<=0.1", "|v|<=20"):
        budgets = {reduction: Budget() for reduction in REDUCTIONS[:-1]}
        # A scalar has one error in each trial, which may be small by luck in the plain formula.
        for trial in range(12):
            mu, logvar, grad_z, grad_kl = draw(shape, dtype, bucket, trial, "none")
            arguments = mu, logvar, grad_z, grad_z, grad_kl, "none"
            exact, plain = exact_latent(*arguments).kl, plain_latent(*arguments).kl
            for reduction, budget in budgets.items():
                actual = gaussian_kl(mu, logvar, reduction=reduction, backend=backend)
                budget.add(actual, np.asarray(reduce(exact, reduction)), reduce(plain, reduction))
        for reduction, budget in budgets.items():
            budget.check(f"{reduction} of {shape}, {bucket}")


@EVERY_BACKEND
@EVERY_DTYPE
@pytest.mark.parametrize("bucket", LOGVAR_BUCKETS)
def test_gradients_of_the_kl_alone_are_as_good_as_their_formula(
    backend: str, dtype: torch.dtype, bucket: str
) -> None:
    """The gradient is ½ expm1(v). Autograd of expm1(v) − v would cancel, and a gradient through z would hide that."""
    mu, logvar, _, grad_kl = draw((150, 37), dtype, bucket, 0, "none")
    m, v = mu.clone().requires_grad_(), logvar.clone().requires_grad_()
    kl = gaussian_kl(m, v, reduction="none", backend=backend)
    actual = torch.autograd.grad(kl, [m, v], grad_kl)
    nothing = torch.zeros_like(mu)
    exact = exact_latent(mu, logvar, nothing, nothing, grad_kl, "none")[2:]
    plain = grad_kl * mu.to(grad_kl.dtype), grad_kl * (0.5 * torch.expm1(logvar.to(grad_kl.dtype)))
    for name, *values in zip(("grad_mu", "grad_logvar"), actual, exact, plain, strict=True):
        budget = Budget()
        budget.add(*values)
        budget.check(name)


@EVERY_BACKEND
@EVERY_DTYPE
def test_given_noise_stays_within_the_budget(backend: str, dtype: torch.dtype) -> None:
    mu, logvar, grad_z, grad_kl = draw((300, 37), dtype, "|v|<=4", 0, "dim")
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(7)).to(dtype)
    arguments = mu, logvar, noise, grad_z, grad_kl, "dim"
    actual = fused(mu, logvar, grad_z, grad_kl, "dim", noise=noise, backend=backend)
    for name, *values in zip(
        Latent._fields, actual, exact_latent(*arguments), plain_latent(*arguments), strict=True
    ):
        budget = Budget()
        budget.add(*values)
        budget.check(name)


def every_pattern(dtype: torch.dtype) -> Tensor:
    """Every value of a 16-bit dtype; for float32, every 4096th bit pattern and those near 0 and 1."""
    if dtype.itemsize == 2:
        return torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    patterns = torch.arange(-(1 << 31), 1 << 31, 1 << 12).to(torch.int32).view(torch.float32)
    near = torch.linspace(-1e-3, 1e-3, 100_001)
    return torch.cat((patterns, near, near * 1e-3, near * 1e3, near + 1)).to(dtype)


@EVERY_BACKEND
@EVERY_DTYPE
def test_kl_is_never_negative(backend: str, dtype: torch.dtype) -> None:
    """exp(v) − 1 − v is negative near 0, and in bfloat16 nearly everywhere. The test covers every log σ²."""
    logvar = every_pattern(dtype)
    logvar = logvar[~logvar.isnan()]
    for mu in (torch.zeros_like(logvar), torch.full_like(logvar, 1e-4)):
        kl = gaussian_kl(mu, logvar, reduction="none", backend=backend)
        # Only inf − inf at +inf may be NaN.
        bad = ~((kl >= 0) | (logvar == math.inf))
        assert not bad.any(), f"log σ² = {logvar[bad][0]} gives {kl[bad][0]}"


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_REDUCTION
def test_kl_of_an_unused_channel_is_exactly_zero(backend: str, dtype: torch.dtype, reduction: str) -> None:
    for zero in (0.0, -0.0):
        mu = torch.full((130, 9), zero, dtype=dtype, requires_grad=True)
        logvar = torch.full((130, 9), zero, dtype=dtype, requires_grad=True)
        kl = gaussian_kl(mu, logvar, reduction=reduction, backend=backend)
        kl.sum().backward()
        assert not kl.any() and not mu.grad.any() and not logvar.grad.any()


@EVERY_BACKEND
@EVERY_DTYPE
def test_results_are_finite_where_the_mathematics_is(backend: str, dtype: torch.dtype) -> None:
    """σ = exp(½ log σ²) overflows later than σ², and e^-100 underflows to a KL that is finite."""
    noise = torch.tensor([1.5, -1.5, 0.0], dtype=dtype).repeat(64)
    for value in (-(2.0**15), -1000.0, -180.0, -104.0, -100.0, -88.0, -50.0, 50.0, 80.0):
        mu = torch.ones(192, dtype=dtype, requires_grad=True)
        logvar = torch.full((192,), value, dtype=dtype, requires_grad=True)
        z, kl = reparameterize_kl(mu, logvar, noise=noise, reduction="none", backend=backend)
        exact = 1 + math.exp(value / 2) * noise.double()
        fits_dtype = exact.abs() < torch.finfo(dtype).max
        assert z[fits_dtype].isfinite().all(), f"z at log σ² = {value}"
        assert torch.equal(z[~fits_dtype], exact[~fits_dtype].to(dtype)), f"z at log σ² = {value}"
        assert kl.isfinite().all(), f"kl at log σ² = {value}"
        (z.double() * 1e-3).sum().backward(retain_graph=True)
        assert mu.grad.isfinite().all()
        gradient = 0.5e-3 * math.exp(value / 2) * noise.double()
        assert logvar.grad[gradient.abs() < torch.finfo(dtype).max].isfinite().all()
    if dtype in (torch.float32, torch.bfloat16):
        large = torch.tensor([100.0, 150.0, 170.0], dtype=dtype)
        z = reparameterize(torch.zeros_like(large), large, noise=torch.ones_like(large), backend=backend)
        assert z.isfinite().all(), "e^88 fits in float32, e^176 does not"


@EVERY_BACKEND
@EVERY_DTYPE
@pytest.mark.parametrize("width", [1, 3, 16, 37])
def test_nan_stays_exactly_where_it_was(backend: str, dtype: torch.dtype, width: int) -> None:
    """z, the unreduced KL and the gradients have NaN where the hand-written formula has it, and nowhere else."""
    generator = torch.Generator().manual_seed(width)
    shape = (41, width)
    mu, logvar, noise, grad_z, grad_kl = (torch.randn(shape, generator=generator).to(dtype) for _ in range(5))
    grad_kl = grad_kl.to(torch.float64 if dtype == torch.float64 else torch.float32)
    holes = torch.randint(24, shape, generator=generator)
    for i, x in enumerate((mu, logvar, noise, grad_z, grad_kl)):
        x[holes == i] = math.nan
    actual = fused(mu, logvar, grad_z, grad_kl, "none", noise=noise, backend=backend)
    plain = plain_latent(mu, logvar, noise, grad_z, grad_kl, "none")
    for name, a, p in zip(Latent._fields, actual, plain, strict=True):
        assert torch.equal(a.isnan(), p.isnan()), name
        assert a.isnan().any()
    for reduction in ("dim", "sample"):
        kl = gaussian_kl(mu, logvar, reduction=reduction, backend=backend)
        nan = (mu + logvar).isnan()
        assert torch.equal(kl.isnan(), nan.any(0 if reduction == "dim" else 1)), reduction


@EVERY_BACKEND
@EVERY_DTYPE
def test_infinities_give_what_the_mathematics_gives(backend: str, dtype: torch.dtype) -> None:
    inf = math.inf
    mu = torch.tensor([inf, -inf, 0, 0, 0, 2], dtype=dtype)
    logvar = torch.tensor([0, 0, inf, inf, -inf, -inf], dtype=dtype)
    noise = torch.tensor([1, 1, 1, -1, 1, 1], dtype=dtype)
    z, kl = reparameterize_kl(mu, logvar, noise=noise, reduction="none", backend=backend)
    assert z.tolist() == [inf, -inf, inf, -inf, 0, 2]
    assert kl[[0, 1, 4, 5]].tolist() == [inf] * 4
    assert not kl[2:4].isfinite().any()


@EVERY_BACKEND
@EVERY_DTYPE
@pytest.mark.parametrize("bounds", [(-2.0, 1.5), (-math.inf, 0.0), (0.0, math.inf), (0.5, 0.5)], ids=str)
def test_logvar_range_is_torch_clamp_with_its_gradient(
    backend: str, dtype: torch.dtype, bounds: tuple[float, float]
) -> None:
    """The test includes the bounds themselves, where the gradient passes, and values beyond, where it is exactly 0."""
    g = torch.Generator().manual_seed(0)
    logvar = (torch.randn(203, 5, generator=g) * 3).to(dtype)
    finite = [b for b in (*bounds, 0.0) if math.isfinite(b)]
    edges = torch.tensor([x for b in finite for x in (b, b + 0.0625, b - 0.0625)], dtype=dtype)
    logvar.view(-1)[: edges.numel()] = edges
    logvar.view(-1)[-2:] = torch.tensor([math.inf, -math.inf])
    if not all(map(math.isfinite, bounds)):
        logvar.view(-1)[-2:] = 0
    mu, grad_z = (torch.randn(203, 5, generator=g).to(dtype) for _ in range(2))
    grad_kl = torch.randn(203, 5, generator=g).to(torch.float64 if dtype == torch.float64 else torch.float32)
    options: dict[str, Any] = {"seed": 4, "backend": backend}
    actual = fused(mu, logvar, grad_z, grad_kl, "none", logvar_range=bounds, **options)
    clamped = fused(mu, logvar.clamp(*bounds), grad_z, grad_kl, "none", **options)
    inside = (logvar >= bounds[0]) & (logvar <= bounds[1])
    for name, a, c in zip(Latent._fields, actual, clamped, strict=True):
        expected = torch.where(inside, c, 0) if name == "grad_logvar" else c
        assert torch.equal(a, expected), name
    assert inside.any() and not inside.all()
    assert torch.equal(
        gaussian_kl(mu, logvar, reduction="none", logvar_range=bounds, backend=backend), actual.kl
    )
    z = reparameterize(mu, logvar, logvar_range=bounds, **options)
    assert torch.equal(z, actual.z)


@EVERY_BACKEND
def test_no_gradient_flows_where_a_bound_that_the_dtype_cannot_hold_clamped(backend: str) -> None:
    """0.1 is not a bfloat16 number. log σ² = 0.1001 is clamped to 0.1, also if the bound in bfloat16 is 0.1001."""
    logvar = torch.tensor([0.1, 0.09, 0.11]).bfloat16().requires_grad_()
    mu = torch.zeros(3).bfloat16()
    gaussian_kl(mu, logvar, reduction="sum", logvar_range=(-1, 0.1), backend=backend).backward()
    plain = logvar.detach().float().requires_grad_()
    gaussian_kl(mu.float(), plain.clamp(-1, 0.1), reduction="sum", backend=backend).backward()
    assert torch.equal(logvar.grad != 0, plain.grad != 0)


@EVERY_BACKEND
def test_a_clamped_nan_is_still_nan(backend: str) -> None:
    """The min and max of many instruction sets drop NaN."""
    mu, logvar = torch.zeros(41), torch.full((41,), math.nan)
    z, kl = reparameterize_kl(mu, logvar, seed=1, reduction="none", logvar_range=(-1, 1), backend=backend)
    assert z.isnan().all() and kl.isnan().all()


@EVERY_BACKEND
@EVERY_REDUCTION
@pytest.mark.parametrize("noise", ["seed", "given"])
@pytest.mark.parametrize("bounds", [None, (-0.5, 0.5)], ids=["unclamped", "clamped"])
def test_gradcheck(backend: str, reduction: str, noise: str, bounds: tuple[float, float] | None) -> None:
    """Numerical differentiation confirms the gradients, whatever the formulas."""
    g = torch.Generator().manual_seed(0)
    eps, mu, logvar = (torch.randn(3, 3, generator=g, dtype=torch.float64) for _ in range(3))
    logvar[logvar.abs().sub(0.5).abs() < 0.01] += 0.05
    source: dict[str, Any] = {"seed": 3} if noise == "seed" else {"noise": eps}

    def function(m: Tensor, v: Tensor) -> Any:
        return reparameterize_kl(m, v, reduction=reduction, logvar_range=bounds, backend=backend, **source)

    inputs = mu.requires_grad_(), logvar.requires_grad_()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradcheck(
        lambda m, v: gaussian_kl(m, v, reduction=reduction, backend=backend), inputs
    )
    assert torch.autograd.gradcheck(lambda m, v: reparameterize(m, v, backend=backend, **source), inputs)


@EVERY_BACKEND
@pytest.mark.parametrize("layout", GRADIENT_LAYOUTS)
@pytest.mark.parametrize("inputs", ["contiguous", "packed", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_gradients_may_arrive_in_any_layout(
    backend: str, layout: str, inputs: str, dtype: torch.dtype
) -> None:
    """A kernel might read a gradient with the strides of μ, or past the end of an expanded gradient."""
    g = torch.Generator().manual_seed(0)
    mu, logvar, grad_z = (torch.randn(33, 6, 3, 5, generator=g).to(dtype) for _ in range(3))
    mu, logvar = lay_out(inputs, mu, logvar)
    grad_kl = torch.randn(33, 6, 3, 5, generator=g)
    grad_z, grad_kl = GRADIENT_LAYOUTS[layout](grad_z), GRADIENT_LAYOUTS[layout](grad_kl)
    options: dict[str, Any] = {"seed": 1, "backend": backend}
    actual = fused(mu, logvar, grad_z, grad_kl, "none", **options)
    expected = fused(dense(mu), dense(logvar), dense(grad_z), dense(grad_kl), "none", **options)
    for name, a, e in zip(Latent._fields, actual, expected, strict=True):
        assert torch.equal(a, e), name


@EVERY_BACKEND
@EVERY_REDUCTION
def test_reduced_gradients_may_arrive_in_any_layout(backend: str, reduction: str) -> None:
    g = torch.Generator().manual_seed(0)
    mu, logvar, grad_z = (torch.randn(31, 6, 4, generator=g) for _ in range(3))
    like = gaussian_kl(mu, logvar, reduction=reduction)
    for grad_kl in (torch.randn(()).expand_as(like), torch.randn(*like.shape, 2)[..., 1]):
        actual = fused(mu, logvar, grad_z, grad_kl, reduction, seed=1, backend=backend)
        expected = fused(mu, logvar, grad_z, dense(grad_kl), reduction, seed=1, backend=backend)
        for name, a, e in zip(Latent._fields, actual, expected, strict=True):
            assert torch.equal(a, e), name


@EVERY_BACKEND
@pytest.mark.parametrize("needs", ["mu", "logvar", "both"])
@pytest.mark.parametrize("outputs", ["z", "kl", "both"])
def test_only_what_is_needed_flows(backend: str, needs: str, outputs: str) -> None:
    """A gradient for one input, or through one output, is the same as when all are requested."""
    g = torch.Generator().manual_seed(0)
    values = [torch.randn(7, 5, generator=g) for _ in range(4)]
    grad_z, grad_kl = values[2], torch.randn(5, generator=g)
    zero_z, zero_kl = grad_z * (outputs != "kl"), grad_kl * (outputs != "z")
    expected = fused(*values[:2], zero_z, zero_kl, "dim", seed=1, backend=backend)
    mu, logvar = values[0].requires_grad_(needs != "logvar"), values[1].requires_grad_(needs != "mu")
    z, kl = reparameterize_kl(mu, logvar, seed=1, backend=backend)
    loss = (z * grad_z).sum() * (outputs != "kl") if outputs != "kl" else 0
    loss = loss + ((kl * grad_kl).sum() if outputs != "z" else 0)
    loss.backward()
    for x, gradient in ((mu, expected.grad_mu), (logvar, expected.grad_logvar)):
        assert (x.grad is None) == (not x.requires_grad)
        if x.requires_grad:
            assert torch.equal(x.grad, gradient)


@EVERY_BACKEND
def test_nothing_requires_a_gradient_when_no_input_does(backend: str) -> None:
    mu = torch.randn(3, 2)
    z, kl = reparameterize_kl(mu, mu, seed=1, backend=backend)
    assert not z.requires_grad and not kl.requires_grad
    logvar = torch.randn(3, 2, requires_grad=True)
    with torch.no_grad():
        assert not gaussian_kl(mu, logvar, backend=backend).requires_grad
    with torch.inference_mode():
        assert reparameterize_kl(mu, logvar, seed=1, backend=backend).z.is_inference()


@EVERY_BACKEND
def test_one_tensor_as_mean_and_log_variance_gets_both_gradients(backend: str) -> None:
    x = torch.randn(5, 3, requires_grad=True)
    gaussian_kl(x, x, reduction="sum", backend=backend).backward()
    assert torch.allclose(x.grad, x.detach() + torch.expm1(x.detach()) / 2)


@EVERY_BACKEND
@EVERY_DTYPE
def test_dtypes_and_shapes_are_as_promised(backend: str, dtype: torch.dtype) -> None:
    mu = torch.randn(6, 4, 2, 3).to(dtype).to(memory_format=torch.channels_last)
    kl_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    for reduction, shape in (
        ("dim", (4, 2, 3)),
        ("sample", (6,)),
        ("batchmean", ()),
        ("sum", ()),
        ("none", mu.shape),
    ):
        z, kl = reparameterize_kl(mu, mu, reduction=reduction, seed=1, backend=backend)
        assert (z.dtype, z.shape, kl.dtype, kl.shape) == (dtype, mu.shape, kl_dtype, torch.Size(shape))
        assert z.is_contiguous(memory_format=torch.channels_last)
        assert z.isfinite().all() and kl.isfinite().all()


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_REDUCTION
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,), (0, 0), (3, 0, 2), (0, 3, 2)], ids=str)
def test_empty_batches_reduce_as_torch_reduces_them(
    backend: str, dtype: torch.dtype, reduction: str, shape: tuple[int, ...]
) -> None:
    """Means of nothing are NaN and sums of nothing are 0. Uninitialised memory would give something else."""
    mu, logvar = (torch.zeros(shape, dtype=dtype, requires_grad=True) for _ in range(2))
    z, kl = reparameterize_kl(mu, logvar, seed=1, reduction=reduction, backend=backend)
    alone = gaussian_kl(mu, logvar, reduction=reduction, backend=backend)
    kl_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    nothing = torch.zeros(shape, dtype=kl_dtype)
    rows = nothing.sum(tuple(range(1, len(shape)))) if len(shape) > 1 else nothing
    expected = {
        "none": nothing,
        "dim": nothing.mean(0),
        "sample": rows,
        "batchmean": rows.mean(),
        "sum": rows.sum(),
    }[reduction]
    for actual in (kl, alone):
        torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=0, equal_nan=True)
    assert z.shape == shape and z.dtype == dtype
    (z.sum() + kl.sum()).backward()
    assert mu.grad.shape == logvar.grad.shape == torch.Size(shape)


@EVERY_BACKEND
def test_a_one_dimensional_batch_is_one_latent_dimension(backend: str) -> None:
    mu, logvar = torch.randn(13), torch.randn(13)
    z = reparameterize(mu, logvar, seed=1, backend=backend)
    assert torch.equal(z, reparameterize(mu[:, None], logvar[:, None], seed=1, backend=backend).flatten())
    for reduction in REDUCTIONS:
        kl = gaussian_kl(mu, logvar, reduction=reduction, backend=backend)
        column = gaussian_kl(mu[:, None], logvar[:, None], reduction=reduction, backend=backend)
        assert torch.equal(kl, column.reshape(kl.shape)), reduction


@EVERY_BACKEND
def test_many_dimensions_and_lazily_negated_views_are_read_right(backend: str) -> None:
    """The tensors have twelve permuted dimensions, or memory that holds the negated values."""
    x = torch.randn(2, 3, 1, 2, 1, 3, 2, 1, 2, 2, 1, 2)
    x = x.permute(*reversed(range(x.dim())))
    negated = torch.complex(torch.zeros(9, 4), torch.randn(9, 4)).conj().imag
    assert negated.is_neg()
    for y in (x, negated):
        for reduction in REDUCTIONS:
            actual = reparameterize_kl(y, y, seed=1, reduction=reduction, backend=backend)
            copy = torch.empty(y.shape).copy_(y)
            expected = reparameterize_kl(copy, copy, seed=1, reduction=reduction, backend=backend)
            assert torch.equal(actual.z, expected.z), reduction
            assert_same_sum(actual.kl, expected.kl, backend)


LATENT_OPS = [op for op in OPERATORS if op.startswith("latent")]


def samples(op: str, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Arguments of the raw operator: strided, empty, with noise or a seed, with missing gradients."""
    kl_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    rng, infinite = torch.tensor([3, 1]), (-math.inf, math.inf)
    found: list[tuple[Any, ...]] = []
    for layout, shape in (
        ("contiguous", (5, 3)),
        ("packed", (5, 3)),
        ("transposed", (5, 3)),
        ("expanded", (5, 3)),
        ("channels_last", (2, 3, 2, 2)),
        ("contiguous", (0, 3)),
        ("contiguous", (3, 0)),
        ("contiguous", (4,)),
    ):
        mu, logvar, noise, grad_z = lay_out(layout, *(torch.randn(shape).to(dtype) for _ in range(4)))
        for (reduction, mode), given in itertools.product(MODES.items(), (False, True)):
            source = (None, noise, 0) if given else (rng, None, 3)
            clamp = (-1.0, 1.0) if given else infinite
            if op == "latent_forward":
                found.append((mu, logvar, *source, *clamp, mode))
            elif op == "latent_sample" and reduction == "none":
                found.append((mu, logvar, *source, *clamp))
            elif op == "latent_kl" and not given:
                found.append((mu, logvar, *clamp, mode))
            elif op == "latent_backward":
                kl_shape = {"none": shape, "dim": shape[1:], "sample": shape[:1]}.get(reduction, ())
                grad_kl = torch.randn(kl_shape, dtype=kl_dtype)
                grads, needs = (grad_z, grad_kl), (True, True)
                if mode == MODES["sample"]:
                    grads = (None, grad_kl) if given else (grad_z, None)
                if mode == MODES["dim"]:
                    needs = (given, not given)
                found.append((*grads, mu, logvar, *source, *clamp, mode, *needs))
            elif op == "latent_backward_packed" and len(shape) > 1:
                kl_shape = {"none": shape, "dim": shape[1:], "sample": shape[:1]}.get(reduction, ())
                grads = (grad_z, None if mode == MODES["dim"] else torch.randn(kl_shape, dtype=kl_dtype))
                packed = lay_out(layout, torch.cat((mu, logvar), 1))[0]
                found.append((*grads, packed, *source, *clamp, mode))
    return found


@EVERY_BACKEND
@pytest.mark.parametrize("op", LATENT_OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_opcheck(backend: str, op: str, dtype: torch.dtype) -> None:
    """opcheck tests the schema of the raw operator (nothing mutated or aliased), the fake against the real operator, and
    the autograd registration.
    """
    operator = getattr(torch.ops.betavae_fast, f"{op}_{backend}").default
    for arguments in samples(op, dtype):
        torch.library.opcheck(
            operator, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
        )


@EVERY_BACKEND
@pytest.mark.parametrize("op", LATENT_OPS)
def test_opcheck_with_dynamic_shapes(backend: str, op: str) -> None:
    """The operator is traced with symbolic sizes. This is slow, so there are few inputs."""
    operator = getattr(torch.ops.betavae_fast, f"{op}_{backend}").default
    for arguments in samples(op, torch.float32)[:3:2]:
        torch.library.opcheck(operator, arguments, test_utils=("test_aot_dispatch_dynamic",))


@EVERY_BACKEND
def test_the_kl_keeps_its_digits_where_a_channel_is_almost_unused(backend: str) -> None:
    """In float32, expm1(v) − v loses all digits below |v| ≈ 1e-7, because the difference vanishes to second order."""
    v = torch.logspace(-8, -2, 200)
    v = torch.cat([v, -v])
    wide = v.double()
    exact = wide**2 / 4 * (1 + wide / 3 + wide**2 / 12 + wide**3 / 60)
    kl = gaussian_kl(torch.zeros_like(v), v, reduction="none", backend=backend)
    assert ((kl.double() - exact).abs() <= 1e-6 * exact).all()

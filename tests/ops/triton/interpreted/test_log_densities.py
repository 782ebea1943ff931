"""The kernels of the log densities, compared with the float64 reference and the error budget."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from betavae_fast import kl_decomposition
from betavae_fast.ops.reductions import ESTIMATORS
from betavae_fast.ops.triton import log_densities
from tests.budget import Budget, exact_log_densities, plain_log_densities
from tests.layouts import dense, lay_out
from tests.ops.triton.interpreted.parity import call

pytestmark = pytest.mark.usefixtures("poisoned_memory", "large_tiles")
N = 1000


@pytest.fixture
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make tiles large, because the interpreter's time depends on their number. There are still several of them, near and
    far, and several parts.
    """
    monkeypatch.setitem(log_densities.SUM_OPTIONS, "TILE", 64)
    monkeypatch.setitem(log_densities.GRADIENT_OPTIONS, "TILE", 64)
    monkeypatch.setitem(log_densities.GRADIENT_OPTIONS, "NEAR_TILE", 32)
    monkeypatch.setattr(log_densities, "MOST_SPLITS", 2)
    yield


def posterior(batch: int, dims: int, dtype: torch.dtype, trial: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1000 * trial + batch + dims)
    mu, logvar = (torch.randn(batch, dims, generator=draw) for _ in range(2))
    z = mu + torch.exp(0.5 * logvar) * torch.randn(batch, dims, generator=draw)
    return z.to(dtype), mu.to(dtype), logvar.to(dtype)


def gradients(rows: int, dims: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(7)
    return torch.randn(rows, generator=draw), torch.randn(rows, dims, generator=draw)


def there_and_back(
    backend: str, grads: tuple[Tensor, Tensor], inputs: tuple[Tensor, ...], *settings: int
) -> tuple[Tensor, ...]:
    logs = call("log_densities_forward", backend, *inputs, *settings)
    return logs + call("log_densities_backward", backend, *grads, *inputs, *logs, *settings)


def check(grads: tuple[Tensor, Tensor], inputs: tuple[Tensor, ...], *settings: int) -> None:
    """Compare with the reference, which gets float64 so that the logarithms it saves are not rounded."""
    got = there_and_back("triton", grads, inputs, *settings)
    wide = tuple(x.double() for x in inputs)
    want = there_and_back("reference", tuple(g.double() for g in grads), wide, *settings)
    for x, y, dtype in zip(got, want, (torch.float64,) * 2 + (inputs[0].dtype,) * 3, strict=True):
        assert x.dtype == dtype and x.is_contiguous()
        scale = max(1e-3, float(y.nan_to_num().abs().max())) if y.numel() else 0.0
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(x.double(), y, rtol=rounding, atol=4e-6 * scale, equal_nan=True)


SIZES = {
    torch.float32: ((2, 16), (17, 16), (130, 7), (3, 33)),
    torch.bfloat16: ((2, 1), (64, 2), (17, 7)),
    torch.float16: ((3, 2), (130, 1)),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("dtype", "size"), [(dtype, size) for dtype, sizes in SIZES.items() for size in sizes], ids=str
)
def test_error(size: tuple[int, int], dtype: torch.dtype, estimator: str) -> None:
    """Several trials even out the luck of a single problem, more of them for small batches."""
    budgets = [Budget() for _ in range(5)]
    for trial in range(max(4, 12 // size[0])):
        inputs, grads = posterior(*size, dtype, trial), gradients(*size)
        got = there_and_back("triton", grads, inputs, 0, N, ESTIMATORS[estimator])
        exact, plain = (f(*inputs, N, estimator, *grads) for f in (exact_log_densities, plain_log_densities))
        for results in zip(budgets, got, exact, plain, strict=True):
            results[0].add(results[1], *results[2:])
    for budget, name in zip(budgets, ("joint", "marginals", "grad_z", "grad_mu", "grad_logvar"), strict=True):
        budget.check(name)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("first_row", "rows"), [(0, 5), (61, 6), (125, 5)])
def test_shards(first_row: int, rows: int, estimator: str) -> None:
    z, mu, logvar = posterior(130, 3, torch.float32)
    inputs = z[first_row : first_row + rows], mu, logvar
    check(gradients(rows, 3), inputs, first_row, N, ESTIMATORS[estimator])


@pytest.mark.parametrize("layout", ["unaligned", "row_strided", "transposed", "packed", "mixed"])
def test_every_layout(layout: str) -> None:
    inputs = lay_out(layout, *posterior(19, 3, torch.float32))
    grads = torch.tensor(0.3).expand(19), lay_out("column_strided", gradients(19, 3)[1])[0]
    check(grads, inputs, 0, N, ESTIMATORS["mss"])


def test_bits_do_not_depend_on_the_layout() -> None:
    inputs, grads = lay_out("mixed", *posterior(19, 3, torch.bfloat16)), gradients(19, 3)
    settings = 0, N, ESTIMATORS["mss"]
    for a, b in zip(
        there_and_back("triton", grads, inputs, *settings),
        there_and_back("triton", grads, tuple(map(dense, inputs)), *settings),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_tiny_widths(estimator: str) -> None:
    """z lies 10⁴ σ from every μ but its own, so that all other densities vanish."""
    z, mu, _ = posterior(17, 2, torch.float32)
    logvar = torch.full_like(z, -30.0)
    check(gradients(17, 2), (mu, mu, logvar), 0, N, ESTIMATORS[estimator])
    check(gradients(17, 2), (mu + 2e-7, mu, logvar), 0, N, ESTIMATORS[estimator])


def test_out_of_reach_is_minus_infinity_without_gradients() -> None:
    z, mu, logvar = posterior(17, 2, torch.float32)
    z[3], logvar[:] = 1e12, -60.0
    logs = call("log_densities_forward", "triton", z, mu, logvar, 0, N, ESTIMATORS["mss"])
    assert logs[0][3] == -float("inf") and (logs[1][3] == -float("inf")).all()
    only = torch.zeros(17), torch.zeros(17, 2)
    only[0][3], only[1][3] = 1.0, 1.0
    grads = call("log_densities_backward", "triton", *only, z, mu, logvar, *logs, 0, N, ESTIMATORS["mss"])
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("which", range(3))
def test_nan_goes_where_the_mathematics_puts_it(which: int) -> None:
    inputs = posterior(19, 3, torch.float32)
    inputs[which][4, 1] = float("nan")
    got = there_and_back("triton", gradients(19, 3), inputs, 0, N, ESTIMATORS["mws"])
    want = there_and_back("reference", gradients(19, 3), inputs, 0, N, ESTIMATORS["mws"])
    for x, y in zip(got, want, strict=True):
        assert torch.equal(x.isnan(), y.isnan())


def test_a_hundred_dims() -> None:
    inputs, grads = posterior(5, 100, torch.float32), gradients(5, 100)
    budget = Budget()
    joint = call("log_densities_forward", "triton", *inputs, 0, N, ESTIMATORS["mss"])[0]
    exact, plain = (f(*inputs, N, "mss", *grads) for f in (exact_log_densities, plain_log_densities))
    budget.add(joint, exact.joint, plain.joint)
    budget.check("joint of 100 dims")


@pytest.mark.parametrize(("rows", "dims"), [(0, 3), (2, 0)])
def test_empty(rows: int, dims: int) -> None:
    _, mu, logvar = posterior(2, dims, torch.float32)
    check(gradients(rows, dims), (mu[:rows], mu, logvar), 0, N, ESTIMATORS["mss"])


def test_through_autograd() -> None:
    grads = []
    for backend in ("triton", "reference"):
        leaves = [x.requires_grad_() for x in posterior(17, 3, torch.float32)]
        parts = kl_decomposition(*leaves, dataset_size=N, backend=backend)
        grads.append(torch.autograd.grad(parts.mutual_information + 6 * parts.total_correlation, leaves))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_float64_is_refused_by_name() -> None:
    inputs = [x.double() for x in posterior(3, 2, torch.float32)]
    with pytest.raises(TypeError, match="float64"):
        call("log_densities_forward", "triton", *inputs, 0, N, 0)
    with pytest.raises(TypeError, match="float64"):
        kl_decomposition(*inputs, dataset_size=N, backend="triton")


def test_opcheck() -> None:
    inputs, settings = posterior(5, 3, torch.bfloat16), (0, N, ESTIMATORS["mss"])
    ops, tests = torch.ops.betavae_fast, ("test_schema", "test_faketensor")
    logs = ops.log_densities_forward_triton(*inputs, *settings)
    for op, arguments in (
        (ops.log_densities_forward_triton.default, (*inputs, *settings)),
        (ops.log_densities_backward_triton.default, (*gradients(5, 3), *inputs, *logs, *settings)),
    ):
        torch.library.opcheck(op, arguments, test_utils=tests)

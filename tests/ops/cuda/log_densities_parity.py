"""The checks of the CUDA backend's log densities, on a GPU or emulated, as ``device`` says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from betavae_fast.ops.reductions import ESTIMATORS
from tests.budget import Budget, LogDensities, exact_log_densities, plain_log_densities
from tests.layouts import LAYOUTS, dense, fits, lay_out

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Log-variances up to these, on both sides of 0.
WIDTHS = (1e-3, 1.0, 4.0)


def forward(*arguments) -> tuple[Tensor, Tensor]:
    return torch.ops.betavae_fast.log_densities_forward_cuda(*arguments)


def backward(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.betavae_fast.log_densities_backward_cuda(*arguments)


def posteriors(
    batch: int, dims: int, dtype: torch.dtype, device: str, width: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A sample of each posterior, the means and the log-variances."""
    g = torch.Generator().manual_seed(seed)
    mu, noise = (torch.randn(batch, dims, generator=g) for _ in range(2))
    logvar = torch.empty(batch, dims).uniform_(-width, width, generator=g)
    z = mu + torch.exp(0.5 * logvar) * noise
    return tuple(x.to(device, dtype) for x in (z, mu, logvar))


def upstream(batch: int, dims: int, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(100 + seed)
    return tuple(torch.randn(shape, generator=g).to(device) for shape in ((batch,), (batch, dims)))


def there_and_back(
    inputs: tuple[Tensor, ...], grads: tuple[Tensor, ...], settings: tuple[int, int, int]
) -> LogDensities:
    """Run forward and backward. The gradients have the dtype of the results, as in autograd."""
    logs = forward(*inputs, *settings)
    grads = tuple(g.to(logs[0].dtype) for g in grads)
    return LogDensities(*logs, *backward(*grads, *inputs, *logs, *settings))


def check_parity(batch: int, dims: int, dtype: torch.dtype, estimator: str, device: str) -> None:
    """Compare all results with the brute force. Several trials even out the luck of a small problem."""
    budgets = {field: Budget() for field in LogDensities._fields}
    for width in WIDTHS:
        for trial in range(max(1, 120 // batch)):
            size = (batch, 1_000, 10**9)[trial % 3]
            inputs = posteriors(batch, dims, dtype, device, width, trial)
            grads = upstream(batch, dims, device, trial)
            actual = there_and_back(inputs, grads, (0, size, ESTIMATORS[estimator]))
            assert all(x.dtype == dtype and x.is_contiguous() for x in actual[2:])
            host = *(x.cpu() for x in inputs), size, estimator, *(x.cpu() for x in grads)
            exact, plain = exact_log_densities(*host), plain_log_densities(*host)
            for field, budget in budgets.items():
                budget.add(getattr(actual, field).cpu(), getattr(exact, field), getattr(plain, field))
    for field, budget in budgets.items():
        budget.check(f"{field} {batch} x {dims} {dtype} {estimator}")


def check_layouts(dtype: torch.dtype, device: str) -> None:
    """Check that inputs, saved results and gradients with any strides give the bits of dense ones."""
    settings = (0, 1_000, ESTIMATORS["mss"])
    for layout in (name for name in LAYOUTS if fits(name, 2)):
        inputs = lay_out(layout, *posteriors(19, 7, dtype, device))
        grad_joint, grad_marginals = upstream(19, 7, device)
        spread = grad_joint.repeat_interleave(2)[::2]
        laid = there_and_back(inputs, (spread, *lay_out(layout, grad_marginals)), settings)
        flat = there_and_back(
            tuple(map(dense, inputs)), (grad_joint, dense(*lay_out(layout, grad_marginals))), settings
        )
        assert all(map(torch.equal, laid, flat)), layout
    inputs, (grad_joint, grad_marginals) = posteriors(19, 7, dtype, device), upstream(19, 7, device)
    one = grad_joint[:1].expand(19)
    expanded, copied = (there_and_back(inputs, (g, grad_marginals), settings) for g in (one, dense(one)))
    assert all(map(torch.equal, expanded, copied))


def check_shards(batch: int, dims: int, estimator: str, device: str) -> None:
    """Check that rows of z against all posteriors give the bits of the whole, and gradients of the posteriors that add up
    to it.
    """
    inputs = z, mu, logvar = posteriors(batch, dims, torch.float32, device)
    grads = upstream(batch, dims, device)
    whole = there_and_back(inputs, grads, (0, 5_000, ESTIMATORS[estimator]))
    parts = []
    for first, last in ((0, 1), (1, batch // 2), (batch // 2, batch), (batch, batch)):
        rows = slice(first, last)
        parts.append(
            there_and_back(
                (z[rows], mu, logvar),
                tuple(g[rows] for g in grads),
                (first, 5_000, ESTIMATORS[estimator]),
            )
        )
    for field in ("joint", "marginals", "grad_z"):
        assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field)), field
    for field in ("grad_mu", "grad_logvar"):
        total = sum(getattr(part, field) for part in parts)
        torch.testing.assert_close(total, getattr(whole, field), rtol=1e-5, atol=1e-5)


def check_tails(device: str) -> None:
    """Check samples far from every posterior but their own or from all of them, and a tiny σ."""
    batch, settings = 40, (0, 1_000, ESTIMATORS["mss"])
    apart = 1e3 * torch.arange(batch, device=device, dtype=torch.float32).unsqueeze(1).expand(batch, 3)
    grads = upstream(batch, 3, device)
    for logvar in (-4.0, -40.0, -150.0, -300.0):
        inputs = (apart, apart, torch.full_like(apart, logvar))
        found = there_and_back(inputs, grads, settings)
        peak, own = -0.5 * (logvar + math.log(2 * math.pi)), -math.log(1_000)
        for log, exact in ((found.joint, 3 * peak + own), (found.marginals, peak + own)):
            torch.testing.assert_close(log, torch.full_like(log, exact), rtol=1e-6, atol=1e-5)
        assert (found.grad_z == 0).all() and (found.grad_mu == 0).all()
        expected = -0.5 * (grads[0].unsqueeze(1) + grads[1])
        torch.testing.assert_close(found.grad_logvar, expected, rtol=1e-6, atol=1e-6)
    far = torch.full_like(apart, 1e25)
    found = there_and_back((far, apart, torch.zeros_like(apart)), grads, settings)
    assert (found.joint == -math.inf).all() and (found.marginals == -math.inf).all()
    assert all((grad == 0).all() for grad in found[2:])


def check_nan(device: str) -> None:
    """Check that a NaN reaches its own row and the gradients of all posteriors in its channel, but no other row."""
    z, mu, logvar = posteriors(20, 4, torch.float32, device)
    grads, settings = upstream(20, 4, device), (0, 1_000, ESTIMATORS["mws"])
    before = there_and_back((z, mu, logvar), grads, settings)
    z[7, 2] = math.nan
    after = there_and_back((z, mu, logvar), grads, settings)
    others = torch.arange(20, device=device) != 7
    assert after.joint[7].isnan() and torch.equal(after.joint[others], before.joint[others])
    nan = after.marginals.isnan()
    assert nan[7, 2] and nan.sum() == 1
    assert after.grad_z[7].isnan().all() and torch.equal(after.grad_z[others], before.grad_z[others])
    assert after.grad_mu.isnan().all() and after.grad_logvar.isnan().all()


def check_empty(device: str) -> None:
    grads, settings = upstream(0, 3, device), (2, 10, ESTIMATORS["mss"])
    inputs = posteriors(4, 3, torch.float32, device)
    found = there_and_back((inputs[0][:0], *inputs[1:]), grads, settings)
    assert [tuple(x.shape) for x in found] == [(0,), (0, 3), (0, 3), (4, 3), (4, 3)]
    assert (found.grad_mu == 0).all() and (found.grad_logvar == 0).all()
    # Without channels a density is 1, and only the weights are left.
    for estimator, log in (("mss", 0.0), ("mws", -math.log(10))):
        joint, marginals = forward(*posteriors(4, 0, torch.float32, device), 0, 10, ESTIMATORS[estimator])
        torch.testing.assert_close(joint, torch.full_like(joint, log), rtol=0, atol=1e-6)
        assert marginals.shape == (4, 0)


def check_refusals(device: str) -> None:
    z, mu, logvar = posteriors(4, 3, torch.float32, device)
    settings = (0, 10, ESTIMATORS["mss"])
    logs = forward(z, mu, logvar, *settings)
    grads = tuple(map(torch.ones_like, logs))
    for match, call in (
        ('backend="reference"', lambda: forward(z.double(), mu.double(), logvar.double(), *settings)),
        ("one dtype", lambda: forward(z, mu.half(), logvar, *settings)),
        ("shape", lambda: forward(z[:, 1:], mu, logvar, *settings)),
        ("4 rows from 1", lambda: forward(z, mu, logvar, 1, *settings[1:])),
        ("at least 4, got 3", lambda: forward(z, mu, logvar, 0, 3, 1)),
        ("estimator", lambda: forward(z, mu, logvar, 0, 10, 2)),
        ("estimator", lambda: forward(z[:1], mu[:1], logvar[:1], *settings)),
        ("joint", lambda: backward(grads[0][:3], grads[1], z, mu, logvar, *logs, *settings)),
        ("joint", lambda: backward(grads[0].half(), grads[1], z, mu, logvar, *logs, *settings)),
        ("marginals", lambda: backward(*grads, z, mu, logvar, logs[0], logs[1][:, 1:], *settings)),
    ):
        with pytest.raises(RuntimeError, match=match):
            call()

"""The posterior object: its numbers against float64, the sharing of a pass, and every shape and memory format."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from betavae_fast import DiagonalGaussian, gaussian_kl, reparameterize_kl
from betavae_fast.nn import posterior as passes
from betavae_fast.noise import make_rng
from tests.budget import Budget, exact_latent, plain_latent

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = ((96, 10), (32, 8, 5, 4), (24, 4, 3, 5, 4), (3, 10, 16, 32), (24, 4, 2, 16, 16))
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def parameters(shape: tuple[int, ...] = (3, 8, 5, 4), dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()


@pytest.fixture
def fresh_dynamo() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def kl_passes() -> Any:
    with mock.patch.object(passes, "gaussian_kl", wraps=gaussian_kl) as counted:
        yield counted


@EVERY_DTYPE
@EVERY_SHAPE
def test_sample_kl_and_gradients_stay_within_the_budget(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = parameters(shape, dtype)
    mu, logvar = x.detach().chunk(2, 1)
    noise, grad_z = torch.randn_like(mu), torch.randn_like(mu)
    q = DiagonalGaussian(x)
    z, kl = q.sample(noise=noise), q.kl()
    grad_kl = torch.randn_like(kl)
    (grad,) = torch.autograd.grad((z, kl), x, (grad_z, grad_kl))
    arguments = mu, logvar, noise, grad_z, grad_kl, "sample"
    for name, *values in zip(
        ("z", "kl", "grad_mu", "grad_logvar"),
        (z, kl, *grad.chunk(2, 1)),
        exact_latent(*arguments),
        plain_latent(*arguments),
        strict=True,
    ):
        budget = Budget()
        budget.add(*values)
        budget.check(name)


@EVERY_DTYPE
@EVERY_SHAPE
def test_kl_to_another_and_nll_stay_within_the_budget(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, y = parameters(shape, dtype).detach(), parameters(shape, dtype).detach().roll(1, 0)
    at = x.chunk(2, 1)[0] + 1

    def by_hand(compute: torch.dtype) -> tuple[Tensor, Tensor]:
        (m, v), (n, w), s = x.to(compute).chunk(2, 1), y.to(compute).chunk(2, 1), at.to(compute)
        kl = 0.5 * ((m - n).square() / w.exp() + torch.expm1(v - w) - (v - w))
        nll = 0.5 * (torch.tensor(8, dtype=compute).mul(torch.tensor(1.0, dtype=compute).atan()).log() + v)
        return kl.flatten(1).sum(1), (nll + 0.5 * (s - m).square() / v.exp()).flatten(1).sum(1)

    q, p = DiagonalGaussian(x), DiagonalGaussian(y)
    actual = q.kl(p), q.nll(at)
    if dtype == torch.float64:
        for found, expected in zip(actual, by_hand(dtype), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
        return
    for name, found, exact, plain in zip(
        ("kl", "nll"), actual, by_hand(torch.float64), by_hand(torch.float32), strict=True
    ):
        budget = Budget()
        budget.add(found, exact.numpy(), plain)
        budget.check(name)


def test_gradients_of_everything() -> None:
    x = parameters((2, 4, 3), torch.float64)
    y = parameters((2, 4, 3), torch.float64).detach().flip(0).requires_grad_()
    noise = torch.randn(2, 2, 3, dtype=torch.float64)

    def everything(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        q = DiagonalGaussian(x)
        z = q.sample(noise=noise)
        return z, q.kl(), q.kl(DiagonalGaussian(y)), q.nll(z), q.std, q.var, q.logvar, q.mode()

    assert torch.autograd.gradcheck(everything, (x, y))

    def fused(x: Tensor) -> tuple[Tensor, Tensor]:
        q = DiagonalGaussian(x)
        return q.sample(noise=noise), q.kl()

    assert torch.autograd.gradgradcheck(fused, (x,))


def test_the_gradient_is_written_as_one_tensor() -> None:
    """The gradient equals that of separate mean and log-variance, but no halves are joined on the way."""
    x = parameters()
    q = DiagonalGaussian(x)
    z = q.sample(torch.Generator().manual_seed(1))
    assert z.grad_fn.next_functions[0][0].name() == "torch::autograd::AccumulateGrad"
    mu, logvar = x.chunk(2, 1)
    rng = make_rng("cpu", generator=torch.Generator().manual_seed(1))
    apart = reparameterize_kl(mu, logvar, reduction="sample", seed=rng, logvar_range=(-30, 20))
    (a,), (b,) = (
        torch.autograd.grad((0.7 * z).sum() + (1.3 * kl).sum(), x) for z, kl in ((z, q.kl()), apart)
    )
    assert torch.equal(a, b)


@EVERY_DTYPE
def test_log_variances_are_clamped_and_have_no_gradient_beyond(dtype: torch.dtype) -> None:
    x = torch.zeros(5, 2).to(dtype)
    x[:, 1] = torch.tensor([-100.0, -30.0, 0.0, 20.0, 50.0])
    x.requires_grad_()
    q = DiagonalGaussian(x)
    clamped = torch.tensor([-30.0, -30.0, 0.0, 20.0, 20.0]).to(dtype)[:, None]
    assert torch.equal(q.logvar, clamped)
    assert torch.equal(q.std, (0.5 * clamped).exp()) and torch.equal(q.var, clamped.exp())
    outputs = {
        "z": q.sample(noise=torch.ones(5, 1, dtype=dtype)),
        "kl": q.kl(),
        "nll": q.nll(torch.ones(5, 1)),
    }
    for name, output in outputs.items():
        (grad,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
        assert grad[0, 1] == grad[4, 1] == 0 and grad[1, 1] != 0, name
    torch.testing.assert_close(
        outputs["kl"],
        gaussian_kl(0 * clamped.to(outputs["kl"].dtype), clamped.to(outputs["kl"].dtype), reduction="sample"),
    )


def test_one_pass_gives_the_sample_and_the_kl(kl_passes) -> None:
    q = DiagonalGaussian(parameters())
    z = q.sample(torch.Generator().manual_seed(1))
    kl = q.kl()
    kl_passes.assert_not_called()
    assert kl.grad_fn is z.grad_fn
    assert torch.equal(kl, q.kl()) and kl_passes.call_count == 1  # A second call makes a graph of its own.


def test_a_kl_that_would_be_another_is_computed_anew(kl_passes) -> None:
    x = parameters()
    q = DiagonalGaussian(x)
    with torch.no_grad():
        q.sample()
    assert q.kl().requires_grad  # The sample had no graph, but the KL has one.
    q.sample()
    with torch.no_grad():
        assert not q.kl().requires_grad
    x = x.detach()
    q = DiagonalGaussian(x)
    q.sample()
    x.mul_(2)
    torch.testing.assert_close(q.kl(), gaussian_kl(*x.chunk(2, 1), reduction="sample"))
    assert kl_passes.call_count == 3


@pytest.mark.parametrize("several", [False, True])
def test_a_kl_asked_for_after_backward_has_a_graph(several: bool) -> None:
    x = parameters()
    q = DiagonalGaussian(x)
    q.sample([torch.Generator() for _ in x] if several else None).sum().backward()
    q.kl().sum().backward()


@pytest.mark.parametrize("asked", [False, True])
def test_nothing_outlives_the_object(asked: bool) -> None:
    """There is no cycle: memory is freed without the garbage collector, also if the KL was never computed."""
    gc.disable()
    try:
        h = parameters() * 1
        q = DiagonalGaussian(h)
        z = q.sample()
        if asked:
            q.kl()
        kept = weakref.ref(h), weakref.ref(q)
        del h, q, z
        assert [ref() for ref in kept] == [None, None]
    finally:
        gc.enable()


def test_inference_mode() -> None:
    with torch.inference_mode():
        x = torch.randn(2, 4)
        q = DiagonalGaussian(x)
        q.sample()
        x.zero_()
        assert torch.equal(q.kl(), torch.zeros(2))


@EVERY_DTYPE
@EVERY_SHAPE
def test_memory_formats_give_the_same_bits_and_keep_the_format(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = parameters(shape, dtype).detach()
    formats = {4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(len(shape), [])
    results = []
    for memory_format in (torch.contiguous_format, *formats):
        y = x.contiguous(memory_format=memory_format).requires_grad_()
        q = DiagonalGaussian(y)
        assert q.mean.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()
        z, kl = q.sample(torch.Generator().manual_seed(5)), q.kl()
        rows = q.sample([torch.Generator().manual_seed(i) for i in range(len(x))])
        assert z.is_contiguous(memory_format=memory_format) and rows.is_contiguous(
            memory_format=memory_format
        )
        (grad,) = torch.autograd.grad((z, kl), y, (torch.ones_like(z), torch.ones_like(kl)))
        assert grad.is_contiguous(memory_format=memory_format)
        results.append((z, kl, rows, grad))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_generators() -> None:
    x = parameters().detach()

    def sample(*seeds: int) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return DiagonalGaussian(x).sample(generators if len(seeds) > 1 else generators[0])

    assert torch.equal(sample(1), sample(1)) and not torch.equal(sample(1), sample(2))
    alone = [
        DiagonalGaussian(row).sample(torch.Generator().manual_seed(i)) for i, row in enumerate(x.split(1))
    ]
    assert torch.equal(sample(0, 1, 2), torch.cat(alone))
    assert torch.equal(DiagonalGaussian(x).sample([torch.Generator().manual_seed(1)]), sample(1))
    torch.manual_seed(3)
    first, second = DiagonalGaussian(x).sample(), DiagonalGaussian(x).sample()
    torch.manual_seed(3)
    assert torch.equal(DiagonalGaussian(x).sample(), first) and not torch.equal(first, second)
    q = DiagonalGaussian(x)
    q.sample([torch.Generator() for _ in x])
    assert torch.equal(q.kl(), gaussian_kl(*x.chunk(2, 1), reduction="sample"))
    assert DiagonalGaussian(x[:0]).sample([]).shape == (0, 4, 5, 4)


def test_a_generator_may_be_on_another_device() -> None:
    """Pipelines use a CPU generator, so that a seed means the same everywhere. Meta stands for any device."""
    z = DiagonalGaussian(torch.empty(2, 8, 3, 3, device="meta")).sample(torch.Generator())
    assert z.device.type == "meta" and z.shape == (2, 4, 3, 3)


@EVERY_DTYPE
def test_deterministic(dtype: torch.dtype) -> None:
    x = parameters(dtype=dtype)
    q = DiagonalGaussian(x, deterministic=True)
    z = q.sample(torch.Generator())
    assert torch.equal(z, q.mean) and torch.equal(q.mode(), q.mean)
    z.detach().zero_()  # The caller may write to a sample.
    assert torch.equal(q.mean, x.chunk(2, 1)[0])
    assert not q.std.any() and not q.var.any() and q.std.dtype == dtype
    expected = torch.zeros(3, dtype=torch.promote_types(dtype, torch.float32))
    for zero in (q.kl(), q.kl(DiagonalGaussian(x)), q.nll(q.mean)):
        torch.testing.assert_close(zero, expected, rtol=0, atol=0)
    assert q.nll(q.mean, dims=(1, 2)).shape == (3, 4)
    meta = DiagonalGaussian(torch.empty(2, 4, device="meta"), deterministic=True)
    assert meta.kl().device.type == meta.nll(meta.mean).device.type == "meta"


def test_kl_is_never_negative_nor_cancels() -> None:
    """The log-variances are bfloat16 numbers near 0. In bfloat16, exp(v) − 1 − v is negative for most of them."""
    v = torch.linspace(-0.1, 0.1, 1001).bfloat16()
    x = torch.stack((torch.zeros_like(v), v), 1)
    assert (v.exp() - 1 - v).min() < 0
    assert (DiagonalGaussian(x).kl() >= 0).all() and DiagonalGaussian(torch.zeros(2, 4)).kl().eq(0).all()
    assert (DiagonalGaussian(x).kl(DiagonalGaussian(x.roll(1, 0))) >= 0).all()
    assert DiagonalGaussian(x).kl(DiagonalGaussian(x)).eq(0).all()


def test_nan_stays_where_it_was() -> None:
    x = parameters().detach().clone()
    x[1, 2, 3, 1] = float("nan")
    q, p = DiagonalGaussian(x), DiagonalGaussian(torch.zeros_like(x))
    z = q.sample()
    assert z.isnan().nonzero().tolist() == [[1, 2, 3, 1]]
    for value in (q.kl(), q.kl(p), p.kl(q), q.nll(p.mean), p.nll(z)):
        assert value.isnan().tolist() == [False, True, False]


def test_nll_sums_over_what_it_is_told() -> None:
    q = DiagonalGaussian(parameters())
    at = torch.ones(4, 5, 4)  # This tensor broadcasts.
    density = torch.distributions.Normal(q.mean, q.std).log_prob(at)
    torch.testing.assert_close(q.nll(at), -density.sum((1, 2, 3)))
    torch.testing.assert_close(q.nll(at, dims=[2, 3]), -density.sum((2, 3)))


def test_compiled_whole(fresh_dynamo: None) -> None:
    def both(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        q = DiagonalGaussian(x)
        return q.sample(noise=noise), q.kl()

    x = parameters()
    noise = torch.randn(3, 4, 5, 4)
    found = [f(x, noise) for f in (both, torch.compile(both, fullgraph=True, backend="aot_eager"))]
    grads = [torch.autograd.grad([y.sum() for y in outputs], x)[0] for outputs in found]
    assert torch.equal(*grads) and all(torch.equal(*pair) for pair in zip(*found, strict=True))


def pickled(q: DiagonalGaussian) -> DiagonalGaussian:
    return pickle.loads(pickle.dumps(q))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("written", range(3))
def test_copies_are_their_own(copied: Any, written: int) -> None:
    """Copies are right however often the parameters were written to before, because the versions of a copy start at 0."""
    x = parameters().detach()
    for _ in range(written):
        x.mul_(1)
    q = DiagonalGaussian(x)
    q.sample()
    other = copied(q)
    assert type(other) is DiagonalGaussian and torch.equal(other.parameters, x)
    other.parameters.zero_()
    assert other.kl().eq(0).all() and not q.kl().eq(0).any()
    assert other.mode().eq(0).all()


def test_reductions_of_the_functional_ops_give_the_capacity_per_channel() -> None:
    mu, logvar = parameters().detach().chunk(2, 1)
    per_channel = reparameterize_kl(mu, logvar).kl.flatten(1).sum(1)
    exact = 0.5 * (mu.double().square() + logvar.double().expm1() - logvar.double())
    torch.testing.assert_close(per_channel.double(), exact.mean(0).sum((1, 2)), rtol=1e-6, atol=0)


def test_malformed_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="got list"):
        DiagonalGaussian([1.0])
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        DiagonalGaussian(torch.zeros(2, 4, dtype=torch.int64))
    for shape in ((4,), (2, 5)):
        with pytest.raises(ValueError, match=rf"got \({shape[0]},"):
            DiagonalGaussian(torch.zeros(shape))
    q = DiagonalGaussian(torch.zeros(3, 4))
    with pytest.raises(TypeError, match="got 7"):
        q.sample(7)
    with pytest.raises(TypeError, match="got 7"):
        q.sample([torch.Generator(), torch.Generator(), 7])
    with pytest.raises(ValueError, match="one per sample, 3, got 2"):
        q.sample([torch.Generator(), torch.Generator()])
    with pytest.raises(ValueError, match="at most one of seed, generator and noise"):
        q.sample(torch.Generator(), noise=torch.zeros(3, 2))
    with pytest.raises(TypeError, match="got tensor"):
        q.kl(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="deterministic=True"):
        q.kl(DiagonalGaussian(torch.zeros(3, 4), deterministic=True))
    with pytest.raises(ValueError, match=r"\(3, 2\), got \(3, 3\)"):
        q.kl(DiagonalGaussian(torch.zeros(3, 6)))

"""The properties that only a GPU can show: the bits of the compiled kernels, graphs, and sizes beyond 32 bits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import product

import pytest
import torch

from betavae_fast import gaussian_kl, noise, reparameterize, reparameterize_kl
from betavae_fast.ops.backends import missing
from betavae_fast.ops.reductions import ESTIMATORS, LIKELIHOODS
from tests.budget import (
    LOGVAR_BUCKETS,
    Budget,
    exact_latent,
    exact_log_densities,
    plain_latent,
    plain_log_densities,
)
from tests.cuda_graphs import captured
from tests.layouts import LAYOUTS, dense, fits, lay_out
from tests.ops import second_gpu
from tests.ops.triton.likelihoods import (
    KINDS,
    NLL_REDUCTIONS,
    as_taken,
    exact_likelihood,
    pixels,
    plain_likelihood,
    settings,
)

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _loaded() -> None:
    assert not missing("triton"), missing("triton")
    importlib.import_module("betavae_fast.ops.triton.bias_relu")


@pytest.mark.parametrize(
    ("features", "first_row"), [((128,), 0), ((37,), 1), ((10,), 3), ((1001,), 7), ((4, 8, 8), 1 << 33)]
)
def test_noise_has_the_bits_of_the_contract(features: tuple[int, ...], first_row: int) -> None:
    row = torch.Size(features).numel()
    zero = torch.zeros(-(-(1 << 22) // row), *features, device="cuda")
    seed = torch.tensor([-(1 << 62) + 12345, (1 << 40) + 7])
    z = reparameterize(zero, zero, seed=seed.cuda(), first_row=first_row, backend="triton").cpu()
    want = noise.normals(seed, first_row * row, z.numel()).view(z.shape)
    assert torch.equal(z.view(torch.int32), want.view(torch.int32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bucket", LOGVAR_BUCKETS)
@pytest.mark.parametrize("reduction", ["none", "dim", "sample", "batchmean"])
def test_error(bucket: str, dtype: torch.dtype, reduction: str) -> None:
    low, high = LOGVAR_BUCKETS[bucket]
    if dtype == torch.float16 and high > 20:
        pytest.skip("exp(80) does not fit in float16")
    draw = torch.Generator().manual_seed(7)
    mu = torch.randn(4096, 37, generator=draw).to(dtype)
    logvar = torch.empty(4096, 37).uniform_(low, high, generator=draw).to(dtype)
    seed = torch.tensor([3, 4])
    m, v = mu.cuda().requires_grad_(), logvar.cuda().requires_grad_()
    z, kl = reparameterize_kl(m, v, seed=seed.cuda(), reduction=reduction, backend="triton")
    grad_z = torch.randn(z.shape, generator=draw).to(dtype)
    grad_kl = torch.randn(kl.shape, generator=draw)
    grads = torch.autograd.grad([z, kl], [m, v], [grad_z.cuda(), grad_kl.cuda()])
    eps = noise.normals(seed, 0, mu.numel()).view(mu.shape)
    exact, plain = (f(mu, logvar, eps, grad_z, grad_kl, reduction) for f in (exact_latent, plain_latent))
    for name, got in zip(("z", "kl", "grad_mu", "grad_logvar"), (z, kl, *grads), strict=True):
        budget = Budget()
        budget.add(got.detach().cpu(), getattr(exact, name), getattr(plain, name))
        budget.check(f"{name} for {bucket} in {dtype}")


@pytest.mark.parametrize("reduction", ["dim", "sample", "sum", "none"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bits_do_not_depend_on_the_layout(layout: str, reduction: str) -> None:
    shape = (515, 20) if fits(layout, 2) else (33, 4, 12, 10)
    mu, logvar = lay_out(layout, torch.randn(shape, device="cuda"), torch.randn(shape, device="cuda"))
    results = []
    for m, v in ((mu, logvar), (dense(mu), dense(logvar))):
        m, v = m.detach().requires_grad_(), v.detach().requires_grad_()
        z, kl = reparameterize_kl(m, v, seed=1, first_row=3, reduction=reduction, backend="triton")
        results.append(
            (z, kl, *torch.autograd.grad([z, kl], [m, v], [torch.ones_like(z), torch.ones_like(kl)]))
        )
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_graph_replays_draw_what_the_seed_tensor_says() -> None:
    mu, logvar = torch.zeros(1000, 10, device="cuda"), torch.zeros(1000, 10, device="cuda")
    seed = torch.tensor([1, 0], device="cuda")
    call = lambda: reparameterize_kl(mu, logvar, seed=seed, backend="triton")
    graph, (z, _) = captured(call)
    replays = []
    for value in (1, 2, 1):
        seed[0] = value
        graph.replay()
        replays.append(z.clone())
    assert torch.equal(replays[0], replays[2]) and not torch.equal(replays[0], replays[1])
    assert torch.equal(replays[0], reparameterize(mu, logvar, seed=1, backend="triton"))


@pytest.mark.parametrize("shape", [((1 << 31) // 128 + 3, 128), (3, (1 << 30) + 1)], ids=str)
def test_beyond_32_bits(shape: tuple[int, int], gpu_memory: Callable[[int], None]) -> None:
    count, tail = shape[0] * shape[1], 1 << 16
    gpu_memory(8 * count)
    zero = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
    z, kl = reparameterize_kl(zero, zero, seed=5, reduction="sum", backend="triton")
    want = noise.normals(torch.tensor([5, 0]), count - tail, tail).bfloat16()
    assert kl == 0 and torch.equal(z.view(-1)[-tail:].cpu(), want)
    del z
    ones = torch.ones((), dtype=torch.bfloat16, device="cuda").expand(shape)
    torch.testing.assert_close(
        gaussian_kl(ones, zero, reduction="sum", backend="triton").item(), count / 2, rtol=1e-6, atol=0
    )


@second_gpu.needed
def test_a_second_gpu_is_served_while_the_first_is_current() -> None:
    second_gpu.check("triton")


# Every likelihood with every kind of pixels, and every dtype with every reduction. All combinations would be 508 kernels
# to compile.
LIKELIHOOD_CASES = dict.fromkeys(
    (
        *(
            (likelihood, kind, DTYPES[(i + j) % 3], NLL_REDUCTIONS[(i + j) % 4])
            for (i, likelihood), (j, kind) in product(enumerate(LIKELIHOODS), enumerate(KINDS))
        ),
        *(("bernoulli", "uint8", dtype, reduction) for dtype, reduction in product(DTYPES, NLL_REDUCTIONS)),
    )
)


@pytest.mark.parametrize(("likelihood", "kind", "dtype", "reduction"), LIKELIHOOD_CASES)
@pytest.mark.parametrize("shape", [(64, 3, 64, 64), (515, 3, 5, 7)], ids=str)
def test_likelihood_error(
    shape: tuple[int, ...], likelihood: str, kind: str, dtype: torch.dtype, reduction: str
) -> None:
    decoded = torch.linspace(-30, 30, torch.Size(shape).numel()).view(shape).to(dtype)
    target, mode = pixels(shape, dtype, kind), settings(likelihood, kind, reduction)
    on_gpu = decoded.cuda(), as_taken(target, kind).cuda()
    nll, early = torch.ops.betavae_fast.likelihood_forward_triton(*on_gpu, *mode, True)
    grad_nll = torch.linspace(-1, 2, nll.numel()).view(nll.shape)
    late = torch.ops.betavae_fast.likelihood_backward_triton(grad_nll.cuda(), *on_gpu, *mode)
    for grad, of_nll in ((early, torch.ones_like(grad_nll)), (late, grad_nll)):
        exact, plain = (
            f(decoded, target, of_nll, likelihood, reduction) for f in (exact_likelihood, plain_likelihood)
        )
        for i, got in enumerate((nll, grad)):
            budget = Budget()
            budget.add(got.cpu(), exact[i], plain[i])
            budget.check(("nll", "grad")[i])


@pytest.mark.parametrize("kind", ["own", "bits"])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if fits(name, 4) and "mixed" not in name])
def test_likelihood_does_not_depend_on_the_layout(layout: str, kind: str) -> None:
    (decoded,) = lay_out(layout, torch.randn(33, 4, 12, 10, device="cuda"))
    target = as_taken(pixels((33, 4, 12, 10), torch.float32, kind), kind).cuda()
    mode = (*settings("bernoulli", kind, "none"), True)
    strided, contiguous = (
        torch.ops.betavae_fast.likelihood_forward_triton(x, target, *mode) for x in (decoded, dense(decoded))
    )
    assert all(torch.equal(a, b) for a, b in zip(strided, contiguous, strict=True))


def test_finish_leaves_alone_what_is_finished_and_waits_for_nothing() -> None:
    decoded, target = torch.randn(64, 3, 64, 64, device="cuda"), torch.rand(64, 3, 64, 64, device="cuda")
    mode = settings("bernoulli", "own", "batchmean")
    one, other = torch.ones((), device="cuda"), torch.full((), 0.3, device="cuda")
    grad, overwritten = torch.full_like(decoded, 77), torch.full_like(decoded, 77)
    mode_before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for g, grad_nll in ((grad, one), (overwritten, other)):
            torch.ops.betavae_fast.likelihood_finish_triton(g, grad_nll, decoded, target, *mode)
    finally:
        torch.cuda.set_sync_debug_mode(mode_before)
    want = torch.ops.betavae_fast.likelihood_backward_triton(other, decoded, target, *mode)
    assert (grad == 77).all() and torch.equal(overwritten, want)


def _plain_bias_relu(y: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients before the ReLU with output y, and of the bias."""
    masked = grad.masked_fill(y <= 0, 0)
    return masked, masked.sum([dim for dim in range(y.dim()) if dim != 1])


@pytest.mark.parametrize("dtype", (*DTYPES, torch.float64), ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        (64, 32, 32, 32),
        (5, 33, 17, 9),
        (256, 1, 64, 64),
        (3, 3, 5, 7),
        (1, 64, 4, 4),
        (4096, 256),
        (64, 1200),
    ],
    ids=str,
)
def test_bias_and_relu(shape: tuple[int, ...], last: bool, dtype: torch.dtype) -> None:
    """The bits are the same in every run, whichever program ends last, and with the sum in a separate launch."""
    draw = torch.Generator().manual_seed(7)
    x, grad = (torch.randn(shape, generator=draw).to(dtype) for _ in range(2))
    bias = torch.randn(shape[1], generator=draw).to(torch.promote_types(dtype, torch.float32))
    y = x.cuda()
    if last and len(shape) == 4:
        y = y.to(memory_format=torch.channels_last)
    counter = torch.ops.betavae_fast.bias_relu_(y, bias.cuda())
    want = (x.to(bias.dtype) + bias.view(-1, *[1] * (len(shape) - 2))).relu().to(dtype)
    assert torch.equal(y.cpu(), want) and counter == 0
    backward = lambda counted: torch.ops.betavae_fast.bias_relu_backward(grad.cuda(), y, counted, bias.dtype)
    grad_x, grad_bias = backward(counter)
    for counted in (None, *(counter,) * 50):
        assert all(torch.equal(a, b) for a, b in zip(backward(counted), (grad_x, grad_bias), strict=True))
    assert counter == 0 and grad_x.stride() == y.stride()
    plain_x, plain_bias = _plain_bias_relu(y, grad.cuda().to(bias.dtype))
    _, exact_bias = _plain_bias_relu(y, grad.cuda().double())
    assert torch.equal(grad_x, plain_x.to(dtype)) and grad_bias.dtype == bias.dtype
    if dtype == torch.float64:
        torch.testing.assert_close(grad_bias, exact_bias)
    else:
        budget = Budget()
        budget.add(grad_bias.cpu(), exact_bias.cpu().numpy(), plain_bias.cpu())
        budget.check("the bias's gradient")


@pytest.mark.parametrize("last", [False, True])
def test_bias_and_relu_beyond_32_bits(last: bool, gpu_memory: Callable[[int], None]) -> None:
    shape = (1, 3, 1 << 15, 1 << 15)
    gpu_memory(6 * torch.Size(shape).numel())
    layout = torch.channels_last if last else torch.contiguous_format
    y = torch.zeros(shape, dtype=torch.bfloat16, device="cuda").to(memory_format=layout)
    bias = torch.tensor([1.0, -1.0, 2.0], device="cuda")
    counter = torch.ops.betavae_fast.bias_relu_(y, bias)
    for channel, value in enumerate((1, 0, 2)):
        assert (y[:, channel] == value).all()
    grad = torch.ones((), dtype=torch.bfloat16, device="cuda").expand(shape)
    grad_x, grad_bias = torch.ops.betavae_fast.bias_relu_backward(grad, y, counter, torch.float32)
    assert torch.equal(grad_bias, torch.tensor([1.0, 0.0, 1.0], device="cuda") * (1 << 30))
    for channel, value in enumerate((1, 0, 1)):
        assert (grad_x[:, channel] == value).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(17, 33), (130, 7), (300, 10)], ids=str)
def test_log_densities_error(size: tuple[int, int], dtype: torch.dtype, estimator: str) -> None:
    draw = torch.Generator().manual_seed(7)
    mu, logvar, noise, grad_marginals = (torch.randn(size, generator=draw) for _ in range(4))
    inputs = tuple(x.to(dtype) for x in (mu + torch.exp(0.5 * logvar) * noise, mu, logvar))
    grads = torch.randn(size[0], generator=draw), grad_marginals
    ops, settings = torch.ops.betavae_fast, (0, 1000, ESTIMATORS[estimator])
    on_gpu = [x.cuda() for x in inputs]
    logs = ops.log_densities_forward_triton(*on_gpu, *settings)
    back = ops.log_densities_backward_triton(*(g.cuda() for g in grads), *on_gpu, *logs, *settings)
    exact, plain = (f(*inputs, 1000, estimator, *grads) for f in (exact_log_densities, plain_log_densities))
    for name, got, *others in zip(exact._fields, logs + back, exact, plain, strict=True):
        budget = Budget()
        budget.add(got.cpu(), *others)
        budget.check(name)

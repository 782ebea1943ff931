"""The public functions inside torch: the source of the noise, autocast, checkpointing, compile, transforms."""

from __future__ import annotations

import copy
import itertools
import re
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from betavae_fast import (
    LatentSample,
    PackedBits,
    bernoulli_nll,
    gaussian_kl,
    gaussian_nll,
    laplace_nll,
    reparameterize,
    reparameterize_kl,
)
from betavae_fast.functional import reparameterize_kl_packed
from betavae_fast.noise import make_rng, normals
from tests.backends import available_backends

EVERY_BACKEND = pytest.mark.parametrize("backend", available_backends())


@pytest.fixture
def posterior() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(9, 5, generator=g), torch.randn(9, 5, generator=g)
    return mu.requires_grad_(), logvar.requires_grad_()


def same(a: LatentSample, b: LatentSample) -> bool:
    return torch.equal(a.z, b.z) and torch.equal(a.kl, b.kl)


def assert_gradient_belongs_to_z(z: Tensor, mu: Tensor, logvar: Tensor) -> None:
    """Assert ∂Σz/∂log σ² = ½ σ ε = ½ (z − μ), which fails if backward drew other noise."""
    (gradient,) = torch.autograd.grad(z.float().sum(), logvar)
    expected = (z.detach().float() - mu.detach().float()) / 2
    torch.testing.assert_close(gradient.float(), expected, rtol=1e-4, atol=1e-5)


# The source of the noise.


@EVERY_BACKEND
def test_an_int_seed_names_stream_0(backend: str) -> None:
    zero = torch.zeros(8, 5)
    for seed in (0, 7, -1, 2**63, 2**64 - 1, -(2**63)):
        expected = normals(make_rng("cpu", seed=seed), 0, 40).view(8, 5)
        assert torch.equal(reparameterize(zero, zero, seed=seed, backend=backend), expected)


@EVERY_BACKEND
@pytest.mark.parametrize(
    "lay", [torch.clone, lambda s: torch.stack((s, s), 1)[:, 0]], ids=["dense", "strided"]
)
def test_a_seed_tensor_is_seed_and_stream(backend: str, lay: Any) -> None:
    zero, pair = torch.zeros(8, 5), torch.tensor([5, -9])
    z = reparameterize(zero, zero, seed=lay(pair), backend=backend)
    assert torch.equal(z.flatten(), normals(pair, 0, 40))


@EVERY_BACKEND
def test_torch_manual_seed_governs_the_noise(backend: str, posterior: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(3)
    first, second = (reparameterize_kl(*posterior, backend=backend) for _ in range(2))
    torch.manual_seed(3)
    assert same(reparameterize_kl(*posterior, backend=backend), first)
    assert not torch.equal(first.z, second.z), "every call must draw new noise"


@EVERY_BACKEND
def test_every_backend_draws_the_same_pair(backend: str) -> None:
    """A change of backend must not change the meaning of torch.manual_seed."""
    zero = torch.zeros(8, 5)
    torch.manual_seed(3)
    z = reparameterize(zero, zero, backend=backend)
    torch.manual_seed(3)
    assert torch.equal(z, reparameterize(zero, zero, backend="reference"))


@EVERY_BACKEND
@pytest.mark.parametrize("source", ["seed", "generator", "noise"])
def test_torch_s_generator_is_left_alone_when_noise_comes_from_elsewhere(backend: str, source: str) -> None:
    x = torch.randn(4, 3)
    given = {"seed": 1, "generator": torch.Generator().manual_seed(1), "noise": x}[source]
    state = torch.get_rng_state()
    reparameterize_kl(x, x, backend=backend, **{source: given})
    reparameterize(x, x, backend=backend, **{source: given})
    gaussian_kl(x, x, backend=backend)
    assert torch.equal(torch.get_rng_state(), state)


@EVERY_BACKEND
def test_a_generator_governs_the_noise_and_moves_on(backend: str, posterior: tuple[Tensor, Tensor]) -> None:
    one, two = (torch.Generator().manual_seed(8) for _ in range(2))
    first, second = (reparameterize(*posterior, generator=one, backend=backend) for _ in range(2))
    assert torch.equal(reparameterize(*posterior, generator=two, backend=backend), first)
    assert not torch.equal(first, second)


@EVERY_BACKEND
def test_noise_is_used_as_given(backend: str, posterior: tuple[Tensor, Tensor]) -> None:
    mu, logvar = posterior
    noise = torch.randn(9, 5)
    z = reparameterize(mu, logvar, noise=noise, backend=backend)
    torch.testing.assert_close(z, mu + torch.exp(logvar / 2) * noise)
    assert torch.equal(reparameterize(mu, logvar, noise=torch.zeros(9, 5), backend=backend), mu)


@EVERY_BACKEND
def test_inputs_are_left_as_they_were(backend: str, posterior: tuple[Tensor, Tensor]) -> None:
    """The operators are pure, backward included."""
    noise, pair = torch.randn(9, 5), torch.tensor([1, 2])
    tensors = (*posterior, noise, pair)
    before = copy.deepcopy([x.detach() for x in tensors])
    for source in ({"noise": noise}, {"seed": pair}):
        z, kl = reparameterize_kl(*posterior, logvar_range=(-0.1, 0.1), backend=backend, **source)
        (z.sum() + kl.sum()).backward()
    assert all(torch.equal(x, b) for x, b in zip(tensors, before, strict=True))


# Packed parameters.


@EVERY_BACKEND
@pytest.mark.parametrize("reduction", ["dim", "sample", "batchmean", "sum", "none"])
@pytest.mark.parametrize("shape", [(9, 10), (3, 6, 5, 4)], ids=str)
def test_packed_parameters_give_the_bits_of_the_two_halves(
    backend: str, reduction: Any, shape: tuple[int, ...]
) -> None:
    """The test compares z, KL and the gradient, with incoming gradients for both results and for only one."""
    packed = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    options: Any = {"seed": 3, "reduction": reduction, "logvar_range": (-1.0, 1.0), "backend": backend}
    whole = reparameterize_kl_packed(packed, **options)
    apart = reparameterize_kl(*packed.chunk(2, 1), **options)
    assert same(whole, apart)
    for wanted in ((0, 1), (0,), (1,)):
        found, expected = (
            torch.autograd.grad(sum((1 + i) * x[i].sum() for i in wanted), packed, retain_graph=True)[0]
            for x in (whole, apart)
        )
        assert torch.equal(found, expected), wanted


@pytest.mark.filterwarnings("ignore")  # torch warns that sparse and nested tensors are in beta.
@pytest.mark.parametrize(
    ("packed", "error", "named"),
    [
        (torch.zeros(()), ValueError, "()"),
        (torch.zeros(4), ValueError, "(4,)"),
        (torch.zeros(2, 1), ValueError, "(2, 1)"),
        (torch.zeros(2, 5), ValueError, "(2, 5)"),
        (None, TypeError, "NoneType"),
        (torch.zeros(2, 4, dtype=torch.int64), TypeError, "torch.int64"),
        (torch.zeros(2, 4).to_sparse(), TypeError, "sparse_coo"),
    ],
    ids=["scalar", "no channels", "one channel", "odd", "None", "int64", "sparse"],
)
def test_what_is_no_pair_of_halves_is_named(packed: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match="^reparameterize_kl_packed: packed must .*got .*" + re.escape(named)):
        reparameterize_kl_packed(packed)


# Inside torch.


@EVERY_BACKEND
@pytest.mark.parametrize("reentrant", [False, True], ids=["non_reentrant", "reentrant"])
@pytest.mark.parametrize("seed", [None, 4], ids=["drawn", "pinned"])
def test_backward_noise_is_forward_noise_under_checkpointing(
    backend: str, reentrant: bool, seed: int | None, posterior: tuple[Tensor, Tensor]
) -> None:
    mu, logvar = posterior

    def function(m: Tensor, v: Tensor) -> Tensor:
        return reparameterize_kl(m, v, seed=seed, backend=backend).z

    torch.manual_seed(0)
    z = checkpoint(function, mu, logvar, use_reentrant=reentrant)
    torch.randn(3)  # Other draws between forward and backward must not matter.
    expected = (z.detach() - mu.detach()) / 2
    z.sum().backward()
    torch.testing.assert_close(logvar.grad, expected, rtol=1e-4, atol=1e-5)


@EVERY_BACKEND
def test_autocast_keeps_the_kl_in_float32(backend: str) -> None:
    """Given bfloat16 from a linear layer and float32 from elsewhere, the op computes in and returns the wider dtype."""
    layer, x = torch.nn.Linear(6, 4), torch.randn(8, 6)
    with torch.autocast("cpu", torch.bfloat16):
        mu, logvar = layer(x), layer(x).float()
        assert mu.dtype == torch.bfloat16
        narrow = reparameterize_kl(mu, mu, seed=1, backend=backend)
        mixed = reparameterize_kl(mu, logvar, seed=1, backend=backend)
        assert gaussian_kl(mu, logvar, backend=backend).dtype == torch.float32
    assert (narrow.z.dtype, narrow.kl.dtype) == (torch.bfloat16, torch.float32)
    assert (mixed.z.dtype, mixed.kl.dtype) == (torch.float32, torch.float32)
    assert same(mixed, reparameterize_kl(mu.float(), logvar, seed=1, backend=backend))
    (mixed.z.sum() + mixed.kl.sum() + narrow.kl.sum()).backward()
    assert layer.weight.grad.dtype == torch.float32 and layer.weight.grad.any()


@EVERY_BACKEND
@pytest.mark.parametrize("reduction", ["dim", "sample", "none"])
@pytest.mark.parametrize("source", ["seed", "noise"])
def test_double_backward_is_right(backend: str, reduction: str, source: str) -> None:
    g = torch.Generator().manual_seed(0)
    mu, logvar, noise = (torch.randn(3, 2, dtype=torch.float64, generator=g) for _ in range(3))
    given: Any = {"noise": noise} if source == "noise" else {"seed": 2}
    inputs = mu.requires_grad_(), logvar.requires_grad_()
    options = {"reduction": reduction, "logvar_range": (-1.0, 1.0), "backend": backend}
    assert torch.autograd.gradgradcheck(lambda m, v: reparameterize_kl(m, v, **given, **options), inputs)
    assert torch.autograd.gradgradcheck(lambda m, v: gaussian_kl(m, v, **options), inputs)
    assert torch.autograd.gradgradcheck(lambda m, v: reparameterize(m, v, backend=backend, **given), inputs)


@EVERY_BACKEND
def test_second_order_terms_do_not_vanish_silently(backend: str) -> None:
    """A detached first gradient would turn a gradient penalty into a constant."""
    mu, logvar = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    kl = gaussian_kl(mu, logvar, reduction="sum", backend=backend)
    (gradient,) = torch.autograd.grad(kl, mu, create_graph=True)
    (gradient.pow(2).sum() + mu.sum()).backward()
    torch.testing.assert_close(mu.grad, 1 + 2 * mu.detach())


@EVERY_BACKEND
@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp", "forward_ad"])
def test_functional_transforms_are_right(backend: str, transform: str) -> None:
    mu, logvar = torch.randn(4, 3), torch.randn(4, 3)

    def function(m: Tensor) -> Tensor:
        return gaussian_kl(
            m, logvar[: m.shape[0]] if m.dim() == 2 else logvar[0], reduction="sum", backend=backend
        )

    def run() -> Tensor:
        if transform == "vmap":
            return torch.func.vmap(lambda m, v: gaussian_kl(m, v, reduction="none", backend=backend))(
                mu, logvar
            )
        if transform == "grad":
            return torch.func.grad(function)(mu)
        if transform == "jvp":
            return torch.func.jvp(function, (mu,), (torch.ones_like(mu),))[1]
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(mu, torch.ones_like(mu))
            return torch.autograd.forward_ad.unpack_dual(function(dual)).tangent

    right = {"vmap": gaussian_kl(mu, logvar, reduction="none"), "grad": mu}.get(transform, mu.sum())
    torch.testing.assert_close(run(), right)


@EVERY_BACKEND
def test_batched_gradients_are_each_gradient(backend: str) -> None:
    """torch.autograd.functional.jacobian(vectorize=True) runs the backward operator under vmap."""
    mu, logvar = torch.randn(4, 3), torch.randn(4, 3)

    def function(m: Tensor, v: Tensor) -> Any:
        return tuple(reparameterize_kl(m, v, seed=1, reduction="sample", backend=backend))

    one_by_one = torch.autograd.functional.jacobian(function, (mu, logvar))
    at_once = torch.autograd.functional.jacobian(function, (mu, logvar), vectorize=True)
    for a, b in zip(at_once, one_by_one, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@EVERY_BACKEND
def test_concurrent_threads_get_the_bits_of_one(backend: str) -> None:
    """State shared between calls, such as a scratch buffer, would be seen when Python threads call at once."""
    from concurrent.futures import ThreadPoolExecutor

    x = torch.randn(512, 37)

    def call(seed: int) -> LatentSample:
        return reparameterize_kl(x, x, seed=seed, reduction="sample", backend=backend)

    alone = [call(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for seed, together in enumerate(pool.map(call, range(8))):
            assert same(together, alone[seed])


def test_meta_tensors_give_meta_results() -> None:
    """Large models are set up with shapes and without data."""
    mu = torch.empty(6, 4, device="meta")
    z, kl = reparameterize_kl(mu, mu, reduction="sample")
    assert z.device.type == kl.device.type == "meta"
    assert z.shape == (6, 4) and kl.shape == (6,)


# torch.compile. The captured graph runs without generated code, except in the tests of the generated code.

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")


@pytest.fixture
def fresh_dynamo() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def everything(
    mu: Tensor, logvar: Tensor, backend: str, seed: int | Tensor | None, first_row: int = 0
) -> tuple[Tensor, ...]:
    z, kl = reparameterize_kl(
        mu * 1, logvar * 1, reduction="sample", seed=seed, first_row=first_row, backend=backend
    )
    other = reparameterize(mu, logvar, seed=seed, logvar_range=(-1, 1), first_row=first_row, backend=backend)
    return z, kl, other, gaussian_kl(mu, logvar, backend=backend)


def assert_compiled_is_eager(
    compiled: Any, rows: int, backend: str, seed: int | Tensor, first_row: int
) -> None:
    mu, logvar = (torch.randn(rows, 6, requires_grad=True) for _ in range(2))
    found = []
    for function in (everything, compiled):
        outputs = function(mu, logvar, backend, seed, first_row)
        grads = torch.autograd.grad([x.sum() for x in outputs], [mu, logvar])
        found.append((*outputs, *grads))
    for eager, other in zip(*found, strict=True):
        assert torch.equal(eager, other)


@NEEDS_COMPILER
@EVERY_BACKEND
def test_compiled_gives_the_bits_of_eager(backend: str, fresh_dynamo: Any) -> None:
    """The test uses torch.compile(fullgraph=True) with generated code, forward and backward, for one shape."""
    compiled = torch.compile(everything, fullgraph=True)
    assert_compiled_is_eager(compiled, 8, backend, 5, 0)


@EVERY_BACKEND
def test_compiled_dynamic_shapes_give_the_bits_of_eager(backend: str, fresh_dynamo: Any) -> None:
    """One graph serves all batch sizes. Recompiling for each size would reach the limit and, with fullgraph, fail."""
    compiled = torch.compile(everything, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (8, 3, 21, 64):
        assert_compiled_is_eager(compiled, rows, backend, torch.tensor([5, rows]), 0)


@pytest.mark.parametrize("backend", available_backends("cpp"))
@pytest.mark.parametrize("varies", ["seed", "first_row", "seed tensor"])
def test_compiled_takes_a_new_seed_or_row_every_step(backend: str, varies: str, fresh_dynamo: Any) -> None:
    """The test uses more values than torch recompiles for."""
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    for step in range(torch._dynamo.config.recompile_limit + 3):
        seed = {"seed": step * 1000 + 7, "first_row": 5, "seed tensor": torch.tensor([step, 3])}[varies]
        assert_compiled_is_eager(compiled, 8, backend, seed, 8 * step if varies == "first_row" else 0)


@NEEDS_COMPILER
@EVERY_BACKEND
def test_compiled_draws_anew_under_torch_manual_seed(
    backend: str, fresh_dynamo: Any, posterior: tuple[Tensor, Tensor]
) -> None:
    """A seed frozen into the graph would give every step the same noise."""

    @torch.compile(fullgraph=True)
    def function(m: Tensor, v: Tensor) -> Tensor:
        return reparameterize(m, v, backend=backend)

    torch.manual_seed(0)
    first, second = function(*posterior), function(*posterior)
    torch.manual_seed(0)
    assert torch.equal(function(*posterior), first)
    assert not torch.equal(first, second)
    assert_gradient_belongs_to_z(second, *posterior)


def test_a_module_that_holds_the_op_can_be_exported(posterior: tuple[Tensor, Tensor]) -> None:
    """torch.export keeps the operator as one node, for any batch size."""

    class Module(torch.nn.Module):
        def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
            return gaussian_kl(mu, logvar, reduction="sample", backend="reference")

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Module(), posterior, dynamic_shapes=({0: batch}, {0: batch}))
    x = torch.randn(31, 5)
    torch.testing.assert_close(program.module()(x, x), gaussian_kl(x, x, reduction="sample"))


# The likelihoods.

NLLS = {"bernoulli": bernoulli_nll, "gaussian": gaussian_nll, "laplace": laplace_nll}
EVERY_NLL = pytest.mark.parametrize("likelihood", NLLS)


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    decoded = torch.randn(5, 3, 4, 7, generator=g).requires_grad_()
    return decoded, torch.randint(256, (5, 3, 4, 7), generator=g, dtype=torch.uint8)


def density(likelihood: str, x: Tensor, scale: float = 1.0) -> torch.distributions.Distribution:
    return {
        "bernoulli": lambda: torch.distributions.Bernoulli(logits=x, validate_args=False),
        "gaussian": lambda: torch.distributions.Normal(x, scale),
        "laplace": lambda: torch.distributions.Laplace(x, scale),
    }[likelihood]()


@EVERY_BACKEND
@EVERY_NLL
@pytest.mark.parametrize("scale", [1.0, 0.3, 4])
def test_the_nll_is_minus_the_log_density_constants_included(
    backend: str, likelihood: str, scale: float, images: tuple[Tensor, Tensor]
) -> None:
    x, pixels = images
    given = {} if likelihood == "bernoulli" else {"scale": scale}
    target = pixels.double() / 255
    exact = -density(likelihood, x.detach().double(), scale).log_prob(target).float()
    rows = exact.flatten(1).sum(1)
    for reduction, expected in (
        ("none", exact),
        ("sample", rows),
        ("batchmean", rows.mean()),
        ("sum", rows.sum()),
    ):
        for t in (pixels, target, target.float()):
            nll = NLLS[likelihood](x, t, reduction=reduction, backend=backend, **given)
            torch.testing.assert_close(nll.detach(), expected, rtol=2e-6, atol=1e-6)


@EVERY_BACKEND
@EVERY_NLL
def test_likelihoods_default_to_the_batch_s_mean_and_a_scale_of_one(
    backend: str, likelihood: str, images: tuple[Tensor, Tensor]
) -> None:
    nll = NLLS[likelihood]
    given = {} if likelihood == "bernoulli" else {"scale": 1.0}
    assert torch.equal(
        nll(*images, backend=backend), nll(*images, reduction="batchmean", backend=backend, **given)
    )
    assert torch.equal(nll(*images), nll(*images, backend="auto"))


@EVERY_BACKEND
@EVERY_NLL
def test_a_target_of_another_floating_dtype_is_read_in_float32_or_wider(
    backend: str, likelihood: str
) -> None:
    """float64 and float16 targets with bfloat16 logits are not rounded to bfloat16."""
    g = torch.Generator().manual_seed(0)
    x, target = torch.randn(5, 6, generator=g), torch.rand(5, 6, generator=g, dtype=torch.float64)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        for other in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
            t = target.to(other)
            nll = NLLS[likelihood](x.to(dtype), t, reduction="none", backend=backend)
            exact = -density(likelihood, x.to(dtype).double()).log_prob(t.double())
            torch.testing.assert_close(nll.double(), exact, rtol=1e-6, atol=2e-7)
            assert nll.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@EVERY_BACKEND
@EVERY_NLL
def test_no_gradient_flows_to_a_target_and_none_is_changed(
    backend: str, likelihood: str, images: tuple[Tensor, Tensor]
) -> None:
    x, pixels = images
    bits = PackedBits.pack(pixels > 127)
    for target in (pixels, pixels > 127, pixels / 255, bits):
        held = target.rows if isinstance(target, PackedBits) else target
        before = copy.deepcopy((x.detach(), held))
        nll = NLLS[likelihood](x, target, backend=backend)
        (-2.5 * nll).backward()
        assert torch.equal(x, before[0]) and torch.equal(held, before[1])


@pytest.mark.parametrize(
    "shape", [(3,), (1, 1), (3, 7), (3, 8), (3, 9), (2, 3, 5, 7), (4, 1, 64, 64), (0, 5), (3, 0)], ids=str
)
def test_packed_bits_are_as_their_docstring_says(shape: tuple[int, ...]) -> None:
    """Pixel p is bit p % 8 of byte p // 8, in row-major order whatever the memory format. A nonzero pixel is on."""
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    count = pixels.shape[1:].numel()
    for given in (pixels, pixels.float() * -0.25, pixels.byte() * 255, pixels.int() * 256, pixels.bfloat16()):
        rows = PackedBits.pack(given).rows
        assert rows.dtype == torch.uint8 and rows.shape == (shape[0], -(-count // 8)) and rows.is_contiguous()
        for image, row in zip(pixels.reshape(shape[0], count).tolist(), rows.tolist(), strict=True):
            assert [bool(row[p // 8] >> p % 8 & 1) for p in range(count)] == image
            assert sum(byte.bit_count() for byte in row) == sum(image), "a spare bit is on"
    if len(shape) == 4:
        laid = pixels.contiguous(memory_format=torch.channels_last)
        assert torch.equal(PackedBits.pack(laid).rows, PackedBits.pack(pixels).rows)


@EVERY_BACKEND
@EVERY_NLL
def test_packed_bits_give_what_the_pixels_give(backend: str, likelihood: str) -> None:
    g = torch.Generator().manual_seed(0)
    x, on = torch.randn(5, 3, 3, 3, generator=g), torch.rand(5, 3, 3, 3, generator=g) < 0.5
    rows = PackedBits.pack(on).rows
    rows[:, -1] |= 0b11111000  # 27 pixels leave five spare bits, which may be anything.
    nll = NLLS[likelihood]
    for reduction in ("none", "sample", "batchmean", "sum"):
        options: Any = {"reduction": reduction, "backend": backend}
        torch.testing.assert_close(nll(x, PackedBits(rows), **options), nll(x, on, **options))


@EVERY_BACKEND
def test_autocast_keeps_the_nll_in_float32(backend: str) -> None:
    layer, x = torch.nn.Linear(6, 40), torch.randn(8, 6)
    target = torch.rand(8, 40)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(x)
        nll = bernoulli_nll(logits, target, backend=backend)
        assert (logits.dtype, nll.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(nll, bernoulli_nll(logits.detach(), target, backend=backend))
    nll.backward()
    assert layer.weight.grad.dtype == torch.float32 and layer.weight.grad.any()


@EVERY_BACKEND
@EVERY_NLL
@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp", "forward_ad", "hessian", "functional_call"])
def test_transforms_of_a_likelihood_are_right(backend: str, likelihood: str, transform: str) -> None:
    g = torch.Generator().manual_seed(0)
    x, target = torch.randn(4, 3, generator=g), torch.rand(4, 3, generator=g)

    def function(y: Tensor, backend: str = backend) -> Tensor:
        return NLLS[likelihood](y, target, reduction="sum", backend=backend)

    def plain(y: Tensor) -> Tensor:
        return -density(likelihood, y).log_prob(target).sum()

    class Module(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.weight, self.inner = torch.nn.Parameter(torch.ones(3)), inner

        def forward(self, y: Tensor) -> Tensor:
            return self.inner(y * self.weight)

    def run(f: Any) -> Tensor:
        if transform == "vmap":
            return torch.func.vmap(lambda y: f(y))(torch.stack((x, 2 * x)))
        if transform == "grad":
            return torch.func.grad(f)(x)
        if transform == "jvp":
            return torch.func.jvp(f, (x,), (torch.ones_like(x),))[1]
        if transform == "hessian":
            return torch.autograd.functional.hessian(f, x)
        if transform == "functional_call":
            weight = torch.full((3,), 2.0, requires_grad=True)
            return torch.autograd.grad(
                torch.func.functional_call(Module(f), {"weight": weight}, (x,)), weight
            )[0]
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            return torch.autograd.forward_ad.unpack_dual(f(dual)).tangent

    torch.testing.assert_close(run(function), run(plain))


@EVERY_BACKEND
def test_concurrent_calls_of_a_likelihood_get_the_bits_of_one(backend: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    x, target = torch.randn(256, 37), torch.rand(256, 37)

    def call(step: int) -> tuple[Tensor, Tensor]:
        leaf = (x * step).requires_grad_()
        nll = bernoulli_nll(leaf, target, backend=backend)
        return nll, torch.autograd.grad(nll, leaf)[0]

    alone = [call(step) for step in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for one, together in zip(alone, pool.map(call, range(8)), strict=True):
            assert all(map(torch.equal, one, together))


def test_meta_and_fake_tensors_give_an_nll_without_data() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    for likelihood, mode in itertools.product(NLLS.values(), (torch.device("meta"), FakeTensorMode())):
        with mode:
            x = torch.empty(6, 3, 4, requires_grad=True)
            for target in (torch.empty(6, 3, 4), PackedBits(torch.empty(6, 2, dtype=torch.uint8))):
                nll = likelihood(x, target, reduction="sample")
                assert nll.shape == (6,) and nll.dtype == torch.float32
                likelihood(x, target).backward()
                assert x.grad.shape == x.shape


def every_nll(
    x: Tensor, y: Tensor, z: Tensor, target: Tensor, bits: Tensor, backend: str
) -> tuple[Tensor, ...]:
    return (
        bernoulli_nll(x * 1, PackedBits(bits), backend=backend),
        2 * gaussian_nll(y, target, scale=0.3, reduction="sum", backend=backend),
        laplace_nll(z, target, reduction="sample", backend=backend),
    )


def assert_compiled_nll_is_eager(compiled: Any, rows: int, backend: str) -> None:
    inputs = [torch.randn(rows, 3, 5, requires_grad=True) for _ in range(3)]
    on = torch.rand(rows, 3, 5) < 0.5
    found = []
    for function in (every_nll, compiled):
        outputs = function(*inputs, on, PackedBits.pack(on).rows, backend)
        incoming = [torch.full_like(y, weight) for y, weight in zip(outputs, (1, -0.3, 7), strict=True)]
        found.append((*outputs, *torch.autograd.grad(outputs, inputs, incoming)))
    for eager, other in zip(*found, strict=True):
        assert torch.equal(eager, other)


@NEEDS_COMPILER
@pytest.mark.parametrize("backend", available_backends("cpp"))
def test_compiled_likelihoods_give_the_bits_of_eager(backend: str, fresh_dynamo: Any) -> None:
    """The test uses torch.compile(fullgraph=True) with generated code, forward and backward."""
    assert_compiled_nll_is_eager(torch.compile(every_nll, fullgraph=True), 8, backend)


@EVERY_BACKEND
def test_compiled_likelihoods_of_any_batch_give_the_bits_of_eager(backend: str, fresh_dynamo: Any) -> None:
    compiled = torch.compile(every_nll, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (8, 3, 21):
        assert_compiled_nll_is_eager(compiled, rows, backend)

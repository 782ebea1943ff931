"""The likelihood op in every backend: the error budget, layouts, gradients of all kinds, special values, torch's checks.

Backends and instruction sets need not agree bit for bit. Each must agree with itself, between runs and for any number of
threads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from betavae_fast import PackedBits, bernoulli_nll, gaussian_nll, laplace_nll
from betavae_fast.ops.backends import cpu_capability, missing
from betavae_fast.ops.operators import OPERATORS
from betavae_fast.ops.reductions import LIKELIHOODS
from betavae_fast.ops.reductions import REDUCTIONS as MODES
from tests.backends import CPU_CAPABILITIES, available_backends, fresh_process, require_cpu_capability
from tests.budget import LOGIT_BUCKETS, Budget, Nll, exact_nll, plain_nll
from tests.layouts import GRADIENT_LAYOUTS, LAYOUTS, dense, far_apart, fits, lay_out

pytestmark = pytest.mark.usefixtures("poisoned_memory")

REDUCTIONS = ("none", "sample", "batchmean", "sum")
SCALARS = ("batchmean", "sum")
KINDS = ("own", "float32", "bool", "uint8", "bits")
SCALES = {"bernoulli": 1.0, "gaussian": 0.3, "laplace": 2.5}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
EVERY_BACKEND = pytest.mark.parametrize("backend", available_backends())
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
EVERY_LIKELIHOOD = pytest.mark.parametrize("likelihood", LIKELIHOODS)
EVERY_REDUCTION = pytest.mark.parametrize("reduction", REDUCTIONS)
EVERY_SCALAR = pytest.mark.parametrize("reduction", SCALARS)


def call(likelihood: str, decoded: Tensor, target: Any, **options: Any) -> Tensor:
    """Call the public function, with a scale if it has one."""
    if likelihood == "bernoulli":
        return bernoulli_nll(decoded, target, **options)
    function = gaussian_nll if likelihood == "gaussian" else laplace_nll
    return function(decoded, target, scale=SCALES[likelihood], **options)


def draw(
    shape: tuple[int, ...], dtype: torch.dtype, kind: str, *, size: float = 4.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The decoder's output, |x| ≤ size, and pixels of this kind. The pixels of "bits" are still bool."""
    g = torch.Generator().manual_seed(seed)
    decoded = torch.empty(shape).uniform_(-size, size, generator=g).to(dtype)
    grey = torch.randint(256, shape, generator=g, dtype=torch.uint8)
    pixels = {
        "own": lambda: (grey / 255).to(dtype),
        "float32": lambda: grey / 255,
        "uint8": lambda: grey,
        "bool": lambda: grey > 127,
        "bits": lambda: grey > 127,
    }[kind]()
    return decoded, pixels


def taken(pixels: Tensor, kind: str) -> Any:
    """The pixels in the form that the function takes."""
    return PackedBits.pack(pixels) if kind == "bits" else pixels


def weights(decoded: Tensor, reduction: str, seed: int = 0) -> Tensor:
    """A gradient for the reduced NLL, different for every element."""
    g = torch.Generator().manual_seed(100 + seed)
    shape = {"none": decoded.shape, "sample": decoded.shape[:1]}.get(reduction, ())
    return torch.randn(shape, generator=g, dtype=torch.promote_types(decoded.dtype, torch.float32))


def fused(likelihood: str, decoded: Tensor, target: Any, grad_nll: Tensor | None, **options: Any) -> Nll:
    x = decoded.detach().requires_grad_()
    nll = call(likelihood, x, target, **options)
    (grad,) = torch.autograd.grad(nll, x, torch.ones_like(nll) if grad_nll is None else grad_nll)
    return Nll(nll.detach(), grad)


class Budgets:
    """A budget for the NLL and one for its gradient, for each reduction."""

    def __init__(self) -> None:
        self._budgets: dict[str, Nll] = {}

    def add(
        self,
        likelihood: str,
        decoded: Tensor,
        pixels: Tensor,
        reduction: str,
        actual: Nll,
        grad_nll: Tensor | None,
    ) -> None:
        assert actual.grad.dtype == decoded.dtype
        assert actual.nll.dtype == torch.promote_types(decoded.dtype, torch.float32)
        assert actual.grad.stride() == torch.empty_like(decoded).stride(), "not the decoder's memory format"
        g = torch.ones_like(actual.nll) if grad_nll is None else dense(grad_nll)
        arguments = dense(decoded), dense(pixels), likelihood, SCALES[likelihood], reduction, g
        budgets = self._budgets.setdefault(reduction, Nll(Budget(), Budget()))
        for field in zip(budgets, actual, exact_nll(*arguments), plain_nll(*arguments), strict=True):
            field[0].add(*field[1:])

    def check(self, what: str) -> None:
        for reduction, budgets in self._budgets.items():
            budgets.nll.check(f"nll ({reduction}, {what})")
            budgets.grad.check(f"grad ({reduction}, {what})")


# The error budget.


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_LIKELIHOOD
@pytest.mark.parametrize("bucket", LOGIT_BUCKETS)
def test_error_is_within_twice_plain_float32_s_plus_one_rounding(
    backend: str, dtype: torch.dtype, likelihood: str, bucket: str
) -> None:
    """The test checks NLL and gradient for all targets and reductions. The trials even out the luck of a scalar."""
    for kind in KINDS if dtype == torch.float32 else ("own", "uint8", "bits"):
        budgets = Budgets()
        for trial in range(4):
            x, pixels = draw((61, 37), dtype, kind, size=LOGIT_BUCKETS[bucket], seed=trial)
            target = taken(pixels, kind)
            for reduction in REDUCTIONS if trial < 2 else SCALARS:
                g = weights(x, reduction, trial) if trial % 2 else None
                actual = fused(likelihood, x, target, g, reduction=reduction, backend=backend)
                if dtype == torch.float64 and reduction in SCALARS:
                    actual = without_the_rounding_of_a_float64_sum(actual, likelihood, x, pixels, reduction)
                budgets.add(likelihood, x, pixels, reduction, actual, g)
        budgets.check(f"{kind} target, {bucket}")


def without_the_rounding_of_a_float64_sum(
    actual: Nll, likelihood: str, x: Tensor, pixels: Tensor, reduction: str
) -> Nll:
    """Replace the NLL by the plain formula's, so that the rounding of a float64 sum is not checked here. That takes more
    trials, in test_long_sums_in_float64_stay_within_the_budget.
    """
    plain = plain_nll(x, pixels, likelihood, SCALES[likelihood], reduction, torch.ones_like(actual.nll)).nll
    torch.testing.assert_close(actual.nll, plain, rtol=1e-14, atol=0)
    return actual._replace(nll=plain)


@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
def test_every_instruction_set_of_the_cpp_backend_keeps_the_budget(capability: str) -> None:
    """The tests of the budget and of special values run again in a process with this instruction set."""
    require_cpu_capability(capability)
    if capability == cpu_capability():
        pytest.skip("the other tests use this instruction set")
    chosen = "(twice_plain or nan_stays or infinite) and cpp and float32"
    process = fresh_process(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen),
        BETAVAE_FAST_CPU_CAPABILITY=capability,
    )
    assert process.returncode == 0 and " passed" in process.stdout, process.stdout[-3000:]


def check_long_sums(backend: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for likelihood in LIKELIHOODS:
        budgets = {reduction: Budget() for reduction in REDUCTIONS[1:]}
        for trial in range(12):  # The plain formula's error of a scalar may be small by luck.
            x, pixels = draw(shape, dtype, "uint8", seed=trial)
            for reduction, budget in budgets.items():
                actual = call(likelihood, x, pixels, reduction=reduction, backend=backend)
                arguments = x, pixels, likelihood, SCALES[likelihood], reduction, torch.ones_like(actual)
                budget.add(actual, exact_nll(*arguments).nll, plain_nll(*arguments).nll)
        for reduction, budget in budgets.items():
            budget.check(f"{likelihood} {reduction} of {shape}")


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("shape", [(9_000, 3), (3, 9_000), (2, 3, 64, 64), (5_000,)], ids=str)
def test_long_sums_stay_within_the_budget(backend: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A single running float32 sum over a large batch or a long row would drift far beyond torch's pairwise sum."""
    check_long_sums(backend, dtype, shape)


@EVERY_BACKEND
@pytest.mark.parametrize("shape", [(9_000, 3), (5_000,)], ids=str)
def test_long_sums_in_float64_stay_within_the_budget(backend: str, shape: tuple[int, ...]) -> None:
    check_long_sums(backend, torch.float64, shape)


@EVERY_BACKEND
@EVERY_DTYPE
def test_certain_pixels_keep_their_small_gradient(backend: str, dtype: torch.dtype) -> None:
    """For a logit of 30, log1p(exp(−|x|)) is 1e-13 and not 0, and so is its gradient for a target of 0."""
    x = torch.linspace(-30, -2, 57).to(dtype)
    for target in (torch.zeros(57, dtype=torch.bool), torch.zeros(57), torch.zeros(57, dtype=torch.uint8)):
        nll, grad = fused("bernoulli", x, target, None, reduction="none", backend=backend)
        tolerance = {torch.float64: 1e-12}.get(dtype, 1e-6)
        torch.testing.assert_close(nll.double(), torch.log1p(x.double().exp()), rtol=tolerance, atol=0)
        exact = x.double().sigmoid()
        unit = torch.finfo(dtype)
        rtol, atol = max(unit.eps, tolerance), unit.smallest_normal * unit.eps
        torch.testing.assert_close(grad.double(), exact, rtol=rtol, atol=atol)


@EVERY_BACKEND
def test_every_uint8_pixel_is_the_nearest_255th(backend: str) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 256)
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(1, 256, dtype=dtype, requires_grad=True)
        gaussian_nll(x, pixels, reduction="sum", backend=backend).backward()
        assert torch.equal(-x.grad, pixels.to(dtype) / 255)


# Layouts.

WIDTHS: tuple[tuple[int, ...], ...] = ((1,), (10,), (37,), (512,), (513,), (3, 5, 7), (4096,), (1, 16, 16))
PAIRS = tuple(
    dict.fromkeys(
        pair
        for layout in LAYOUTS
        if not layout.startswith(("packed", "mixed"))
        for pair in ((layout, layout), (layout, "contiguous"), ("contiguous", layout))
    )
)


def laid_out(pair: tuple[str, str], decoded: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    return lay_out(pair[0], decoded)[0], lay_out(pair[1], pixels)[0]


@EVERY_BACKEND
@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_both_tensors_may_lie_anyhow_in_memory(backend: str, pair: tuple[str, str]) -> None:
    """The test covers every width, with likelihoods, kinds and dtypes in turn. NLL and gradient of a pixel depend only on
    the pixel, so they have the bits of contiguous copies (except that the last bit of torch's exp may depend on the
    layout). Sums may be taken in another order.
    """
    turn = itertools.cycle(itertools.product(KINDS, LIKELIHOODS, DTYPES))
    for features in WIDTHS:
        if not (fits(pair[0], 1 + len(features)) and fits(pair[1], 1 + len(features))):
            continue
        for kind, likelihood, dtype in itertools.islice(turn, 2):
            x, pixels = laid_out(pair, *draw((max(3, 600 // math.prod(features)), *features), dtype, kind))
            target, plainly = taken(pixels, kind), taken(dense(pixels), kind)
            for reduction in REDUCTIONS:
                g = None if reduction == "sum" else weights(x, reduction)
                options: dict[str, Any] = {"reduction": reduction, "backend": backend}
                found = fused(likelihood, x, target, g, **options)
                expected = fused(likelihood, dense(x), plainly, g, **options)
                what = f"{likelihood}, {kind} target, {dtype} {features}, {reduction}"
                if backend == "cpp":
                    assert torch.equal(found.grad, expected.grad), what
                last_bits = 4 * torch.finfo(dtype if backend == "eager" else torch.float64).eps
                torch.testing.assert_close(found.grad, expected.grad, rtol=last_bits, atol=last_bits)
                assert found.grad.dtype == dtype
                assert found.grad.stride() == torch.empty_like(x).stride(), "not the decoder's memory format"
                if reduction == "none" and backend == "cpp":
                    assert torch.equal(found.nll, expected.nll), what
                else:
                    torch.testing.assert_close(found.nll, expected.nll, rtol=2e-6, atol=0)


@EVERY_BACKEND
@pytest.mark.parametrize("features", WIDTHS, ids=str)
def test_every_width_stays_within_the_budget(backend: str, features: tuple[int, ...]) -> None:
    """The widths have full vectors, parts of one, and rows longer than a chunk, in both memory formats of images."""
    for dtype, likelihood in itertools.product(DTYPES[:2], LIKELIHOODS):
        for kind, channels_last in itertools.product(KINDS[1:], (False, True)[: 1 + (len(features) == 3)]):
            budgets = Budgets()
            for trial in range(2):
                x, pixels = draw((max(5, 600 // math.prod(features)), *features), dtype, kind, seed=trial)
                if channels_last:
                    x = x.to(memory_format=torch.channels_last)
                for reduction in REDUCTIONS[:2]:
                    g = weights(x, reduction, trial)
                    actual = fused(
                        likelihood, x, taken(pixels, kind), g, reduction=reduction, backend=backend
                    )
                    budgets.add(likelihood, x, pixels, reduction, actual, g)
            budgets.check(f"{dtype} {likelihood}, {kind} target")


@EVERY_BACKEND
@EVERY_DTYPE
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith(("packed", "mixed"))])
def test_slices_of_one_tensor_and_formats_that_differ_are_read_right(
    backend: str, dtype: torch.dtype, layout: str
) -> None:
    for features, reduction in itertools.product(((6, 5, 7), (6, 4, 4)), REDUCTIONS):
        x, pixels = lay_out(layout, *draw((9, *features), dtype, "own"))
        options: dict[str, Any] = {"reduction": reduction, "backend": backend}
        g = weights(x, reduction)
        found = fused("gaussian", x, pixels, g, **options)
        expected = fused("gaussian", dense(x), dense(pixels), g, **options)
        torch.testing.assert_close(found.nll, expected.nll, rtol=2e-6, atol=0)
        assert torch.equal(found.grad, expected.grad)
        assert found.grad.stride() == torch.empty_like(x).stride()


@EVERY_BACKEND
def test_an_unreduced_nll_lies_in_memory_as_the_decoder_s_output(backend: str) -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    nll = bernoulli_nll(x, torch.rand(2, 3, 4, 5), reduction="none", backend=backend)
    assert nll.is_contiguous(memory_format=torch.channels_last)


@EVERY_BACKEND
@pytest.mark.parametrize("features", [(), (1,), (7,), (8,), (9,), (513,), (3, 5, 7), (1, 64, 64)], ids=str)
def test_packed_bits_are_the_bools_they_hold(backend: str, features: tuple[int, ...]) -> None:
    """The results agree bit for bit in every memory format of the decoder's output, whatever the spare bits and the
    strides of the rows.
    """
    x, pixels = draw((5, *features), torch.float32, "bool")
    rows = PackedBits.pack(pixels).rows
    spare = -math.prod(features) % 8
    noisy = rows.clone()
    noisy[:, -1] |= 255 - (255 >> spare)
    assert spare == 0 or not torch.equal(noisy, rows)
    strided = torch.full((10, 2 * rows.shape[1]), 170, dtype=torch.uint8)[::2, ::2].copy_(noisy)
    for layout in ("contiguous", "transposed", "channels_last", "row_strided", "unaligned"):
        if not fits(layout, x.dim()):
            continue
        (laid,) = lay_out(layout, x)
        for likelihood, reduction in itertools.product(LIKELIHOODS, REDUCTIONS):
            options: dict[str, Any] = {"reduction": reduction, "backend": backend}
            expected = fused(likelihood, laid, pixels, None, **options)
            for bits in (rows, noisy, strided):
                found = fused(likelihood, laid, PackedBits(bits), None, **options)
                torch.testing.assert_close(found.nll, expected.nll, rtol=1e-6, atol=0)
                assert torch.equal(found.grad, expected.grad), (layout, likelihood, reduction)


@EVERY_BACKEND
def test_many_dimensions_and_lazily_negated_views_are_read_right(backend: str) -> None:
    """The tensors have twelve permuted dimensions, or memory that holds the negated values."""
    x = torch.randn(2, 3, 1, 2, 1, 3, 2, 1, 2, 2, 1, 2)
    x = x.permute(*reversed(range(x.dim())))
    negated = torch.complex(torch.zeros(9, 4), torch.randn(9, 4)).conj().imag
    assert negated.is_neg()
    for y, reduction in itertools.product((x, negated), REDUCTIONS):
        actual = fused("gaussian", y, y * 0.5, None, reduction=reduction, backend=backend)
        kinked = fused("gaussian", y, y, weights(y, reduction), reduction=reduction, backend=backend)
        copy = torch.empty(y.shape).copy_(y)
        expected = fused("gaussian", copy, copy * 0.5, None, reduction=reduction, backend=backend)
        torch.testing.assert_close((*actual,), (*expected,), rtol=1e-6, atol=0)
        assert not kinked.grad.any()


@pytest.mark.parametrize("backend", available_backends("cpp"))
def test_strides_past_32_bits_are_followed(backend: str, tmp_path: Path) -> None:
    try:
        far = far_apart(tmp_path, 3, 5)
    except RuntimeError as error:
        pytest.skip(f"no sparse file of 8 GB here: {error}")
    values, pixels = draw((3, 5), torch.bfloat16, "own")
    far.copy_(values)
    found = bernoulli_nll(far, pixels, reduction="none", backend=backend)
    assert torch.equal(found, bernoulli_nll(values, pixels, reduction="none", backend=backend))
    far.copy_(pixels)
    assert torch.equal(found, bernoulli_nll(values, far, reduction="none", backend=backend))


# Repeatability of the bits.


@EVERY_BACKEND
@EVERY_LIKELIHOOD
@pytest.mark.parametrize(
    "shape, layout",
    [
        ((70_001,), "contiguous"),
        ((3, 20_011), "contiguous"),
        ((700, 97), "transposed"),
        ((33, 3, 32, 32), "channels_last"),
        ((41, 3, 29, 31), "expanded_rows"),
    ],
    ids=str,
)
def test_threads_and_runs_change_no_bit(
    backend: str, likelihood: str, shape: tuple[int, ...], layout: str, threads: None
) -> None:
    if backend in ("reference", "eager"):
        # torch adds up long rows in an order that depends on the number of threads.
        shape = (max(1, shape[0] // 8), *shape[1:])
    x, pixels = draw(shape, torch.float32, "uint8")
    (x,) = lay_out(layout, x) if fits(layout, x.dim()) else (x,)
    found = []
    for n in (1, 2, 3, 3, 2):
        torch.set_num_threads(n)
        found.append(
            [
                y
                for reduction in REDUCTIONS
                for y in fused(likelihood, x, pixels, None, reduction=reduction, backend=backend)
            ]
        )
    for other in found[1:]:
        for reference, y in zip(found[0], other, strict=True):
            assert torch.equal(reference, y)


@EVERY_BACKEND
@EVERY_LIKELIHOOD
@EVERY_SCALAR
def test_the_value_is_the_same_with_and_without_a_gradient(
    backend: str, likelihood: str, reduction: str
) -> None:
    """A loss logged under no_grad must be the same number as in training."""
    for kind, dtype in itertools.product(KINDS, DTYPES):
        x, pixels = draw((61, 3, 7, 5), dtype, kind)
        for y in (x, x.to(memory_format=torch.channels_last)):
            options: dict[str, Any] = {"reduction": reduction, "backend": backend}
            with_gradient = fused(likelihood, y, taken(pixels, kind), None, **options).nll
            assert torch.equal(call(likelihood, y, taken(pixels, kind), **options), with_gradient)


# Gradients.


@EVERY_BACKEND
@pytest.mark.parametrize("layout", GRADIENT_LAYOUTS)
@pytest.mark.parametrize("inputs", ["contiguous", "channels_last", "column_strided"])
@pytest.mark.parametrize("kind", ["uint8", "bits"])
def test_gradients_may_arrive_in_any_layout(backend: str, layout: str, inputs: str, kind: str) -> None:
    """A kernel might read a gradient with the strides of the logits, or past the end of an expanded gradient."""
    x, pixels = draw((13, 6, 3, 5), torch.float32, kind)
    (x,) = lay_out(inputs, x)
    g = GRADIENT_LAYOUTS[layout](weights(x, "none"))
    target, options = taken(pixels, kind), {"reduction": "none", "backend": backend}
    for likelihood in LIKELIHOODS:
        actual = fused(likelihood, x, target, g, **options)
        assert torch.equal(actual.grad, fused(likelihood, x, target, dense(g), **options).grad)


@EVERY_BACKEND
@EVERY_DTYPE
def test_gradients_of_images_may_arrive_in_any_layout(backend: str, dtype: torch.dtype) -> None:
    x, pixels = draw((31, 6, 4), dtype, "own")
    options: dict[str, Any] = {"reduction": "sample", "backend": backend}
    g = weights(x, "sample")
    for laid in (g[:1].expand(31), torch.stack((g * math.nan, g), 1)[:, 1], g.flip(0).clone().flip(0)):
        actual, expected = (fused("bernoulli", x, pixels, y, **options).grad for y in (laid, dense(laid)))
        assert torch.equal(actual, expected)
    scalar = torch.tensor([math.nan, -1.5], dtype=g.dtype)[1]
    for reduction in SCALARS:
        actual = fused("bernoulli", x, pixels, scalar, reduction=reduction, backend=backend)
        expected = fused("bernoulli", x, pixels, scalar.clone(), reduction=reduction, backend=backend)
        assert torch.equal(actual.grad, expected.grad)


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_LIKELIHOOD
@EVERY_SCALAR
def test_a_gradient_that_is_not_one_after_all(
    backend: str, dtype: torch.dtype, likelihood: str, reduction: str
) -> None:
    """Forward wrote the gradient for 1. Backward finds another number and writes every element again."""
    for kind, format in itertools.product(
        ("own", "bool", "bits"), (torch.contiguous_format, torch.channels_last)
    ):
        x, pixels = draw((9, 3, 5, 7), dtype, kind)
        x, target = x.to(memory_format=format), taken(pixels, kind)
        options: dict[str, Any] = {"reduction": reduction, "backend": backend}
        budgets = Budgets()
        for value in (1.0, -2.5, 1 + 2**-20, -1.0, 1e-3):
            g = torch.tensor(value, dtype=torch.promote_types(dtype, torch.float32))
            actual = fused(likelihood, x, target, g, **options)
            budgets.add(likelihood, x, pixels, reduction, actual, g)
        budgets._budgets[reduction].grad.check(reduction)
        one = fused(likelihood, x, target, None, **options).grad
        zero, nan, inf = (
            fused(likelihood, x, target, torch.tensor(v, dtype=g.dtype), **options).grad
            for v in (0.0, math.nan, math.inf)
        )
        assert not zero.any() and zero.dtype == dtype and nan.isnan().all()
        assert torch.equal(inf[one != 0], one[one != 0] * math.inf)
        assert inf[one == 0].isnan().all() or dtype == torch.float16  # where the gradient has underflowed


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_REDUCTION
def test_backward_again_gives_the_same_numbers(backend: str, dtype: torch.dtype, reduction: str) -> None:
    """The first backward gives away the gradient that forward left behind, and its new owner may overwrite it."""
    x, pixels = draw((9, 37), dtype, "uint8")
    options: dict[str, Any] = {"reduction": reduction, "backend": backend}
    g = weights(x, reduction)
    expected = [fused("bernoulli", x, pixels, y, **options).grad for y in (None, g)]
    leaf = x.clone().requires_grad_()
    nll = call("bernoulli", leaf, pixels, **options)
    one = torch.ones_like(nll)
    for incoming, right in ((one, 0), (one, 0), (g, 1), (one, 0)):
        nll.backward(incoming, retain_graph=True)
        assert torch.equal(leaf.grad, expected[right])
        leaf.grad.fill_(math.nan)
        leaf.grad = None
    nll.backward(g)
    assert torch.equal(leaf.grad, expected[1])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        nll.backward(one)
    nll = call("bernoulli", leaf, pixels, **options)
    first, second = (torch.autograd.grad(nll, leaf, g, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()
    assert torch.equal(first, expected[1])


@EVERY_BACKEND
@EVERY_SCALAR
def test_gradients_accumulate(backend: str, reduction: str) -> None:
    x, pixels = draw((9, 37), torch.float32, "own")
    leaf = x.clone().requires_grad_()
    first = call("bernoulli", leaf, pixels, reduction=reduction, backend=backend)
    second = call("gaussian", leaf, pixels, reduction=reduction, backend=backend)
    (first + second).backward()
    kept = leaf.grad
    call("laplace", leaf, pixels, reduction=reduction, backend=backend).backward()
    expected = sum(
        fused(name, x, pixels, None, reduction=reduction, backend=backend).grad for name in LIKELIHOODS
    )
    torch.testing.assert_close(leaf.grad, expected)
    assert leaf.grad is kept


@EVERY_BACKEND
@EVERY_LIKELIHOOD
@EVERY_REDUCTION
@pytest.mark.parametrize("kind", ["own", "uint8", "bits"])
def test_gradcheck(backend: str, likelihood: str, reduction: str, kind: str) -> None:
    """Numerical differentiation confirms the first and second order, whatever the formulas."""
    x, pixels = draw((3, 4), torch.float64, kind)
    target = taken(pixels, kind)

    def function(y: Tensor) -> Tensor:
        return call(likelihood, y, target, reduction=reduction, backend=backend)

    assert torch.autograd.gradcheck(function, x.requires_grad_())
    if kind != "uint8":
        assert torch.autograd.gradgradcheck(function, x)


@EVERY_BACKEND
@EVERY_REDUCTION
def test_second_order_terms_do_not_vanish_silently(backend: str, reduction: str) -> None:
    """A detached first gradient would turn a gradient penalty into a constant. An ordinary backward after it gives the
    ordinary gradient.
    """
    x, pixels = draw((4, 3), torch.float32, "own")
    leaf = x.clone().requires_grad_()
    nll = call("bernoulli", leaf, pixels, reduction=reduction, backend=backend)
    one = torch.ones_like(nll)
    (gradient,) = torch.autograd.grad(nll, leaf, one, create_graph=True)
    part = 1 / 4 if reduction == "batchmean" else 1
    p = torch.sigmoid(x)
    (gradient.square().sum() + leaf.sum()).backward(retain_graph=True)
    torch.testing.assert_close(leaf.grad, 1 + 2 * part**2 * (p - pixels) * p * (1 - p))
    leaf.grad = None
    expected = fused("bernoulli", x, pixels, None, reduction=reduction, backend=backend).grad
    for _ in range(2):
        assert torch.equal(torch.autograd.grad(nll, leaf, one, retain_graph=True)[0], expected)


@EVERY_BACKEND
@EVERY_REDUCTION
@pytest.mark.parametrize("reentrant", [False, True], ids=["non_reentrant", "reentrant"])
def test_checkpointing_changes_no_bit(backend: str, reduction: str, reentrant: bool) -> None:
    x, pixels = draw((9, 37), torch.float32, "own")
    for g in (None, weights(x, reduction)):
        expected = fused("bernoulli", x, pixels, g, reduction=reduction, backend=backend)
        leaf = x.clone().requires_grad_()

        def function(y: Tensor) -> Tensor:
            return call("bernoulli", y * 1, pixels, reduction=reduction, backend=backend)

        nll = checkpoint(function, leaf, use_reentrant=reentrant)
        nll.backward(torch.ones_like(nll) if g is None else g)
        assert torch.equal(nll, expected.nll) and torch.equal(leaf.grad, expected.grad)


@EVERY_BACKEND
@EVERY_REDUCTION
@pytest.mark.parametrize("which", ["logits", "target"])
def test_an_input_that_changed_since_forward_is_an_error(backend: str, reduction: str, which: str) -> None:
    """The error also comes if backward would not read the input, because the caller cannot know whether it does."""
    x, pixels = draw((4, 3), torch.float32, "own")
    x = x.requires_grad_() * 1
    nll = call("bernoulli", x, pixels, reduction=reduction, backend=backend)
    with torch.no_grad():
        (x if which == "logits" else pixels).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        nll.sum().backward()


@EVERY_BACKEND
@EVERY_REDUCTION
def test_no_gradient_where_none_is_wanted(backend: str, reduction: str) -> None:
    options: dict[str, Any] = {"reduction": reduction, "backend": backend}
    x, pixels = draw((4, 3), torch.float32, "own")
    expected = call("bernoulli", x, pixels, **options)
    assert not expected.requires_grad
    x.requires_grad_()
    with torch.no_grad():
        assert not call("bernoulli", x, pixels, **options).requires_grad
    with torch.inference_mode():
        nll = call("bernoulli", x, pixels, **options)
        assert nll.is_inference() and torch.equal(nll, expected)
        frozen = x.clone()
    assert torch.equal(call("bernoulli", frozen, pixels, **options), expected)


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", DTYPES[1:3], ids=lambda d: str(d)[6:])
@EVERY_SCALAR
def test_a_scaled_loss_keeps_small_gradients(backend: str, dtype: torch.dtype, reduction: str) -> None:
    """The gradients would be 0 in float16 if they were divided by the batch before the loss's scale of 65536."""
    x = torch.linspace(-20, -9, 512).view(64, 8).to(dtype)
    target = torch.zeros(64, 8, dtype=torch.bool)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    leaf = x.clone().requires_grad_()
    loss = bernoulli_nll(leaf, target, reduction=reduction, backend=backend)
    scaler.scale(loss).backward()
    assert (leaf.grad != 0).all()
    budgets, g = Budgets(), torch.tensor(65536.0)
    budgets.add("bernoulli", x, target, reduction, Nll(loss.detach(), leaf.grad), g)
    budgets._budgets[reduction].grad.check("scaled")


@EVERY_BACKEND
def test_batched_gradients_are_each_gradient(backend: str) -> None:
    """torch.autograd.functional.jacobian(vectorize=True) runs backward under vmap."""
    x, pixels = draw((4, 3), torch.float32, "own")
    for reduction in REDUCTIONS:

        def function(y: Tensor, reduction: str = reduction) -> Tensor:
            return call("bernoulli", y, pixels, reduction=reduction, backend=backend)

        one_by_one = torch.autograd.functional.jacobian(function, x)
        at_once = torch.autograd.functional.jacobian(function, x, vectorize=True)
        torch.testing.assert_close(at_once, one_by_one, rtol=1e-6, atol=1e-7)


@EVERY_BACKEND
def test_tensors_saved_elsewhere_come_back(backend: str) -> None:
    """Activation offloading uses saved_tensors_hooks."""
    x, pixels = draw((4, 3), torch.float32, "own")
    for reduction in REDUCTIONS:
        leaf = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.double(), lambda t: t.float()):
            nll = call("bernoulli", leaf * 1, pixels, reduction=reduction, backend=backend)
        g = weights(x, reduction)
        nll.backward(g)
        expected = fused("bernoulli", x, pixels, g, reduction=reduction, backend=backend).grad
        assert torch.equal(leaf.grad, expected)


# Memory.


class PixelSized(TorchDispatchMode):
    """A mode that records the storages of at least ``size`` bytes that operators return and were not given."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, list[tuple[str, int]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs))
        known = {x.untyped_storage().data_ptr() for x in flat if isinstance(x, Tensor)}
        for x in torch.utils._pytree.tree_flatten(result)[0]:
            if isinstance(x, Tensor) and x.untyped_storage().nbytes() >= self.size:
                where = x.untyped_storage().data_ptr()
                if where not in known and where not in [w for _, w in self.found]:
                    self.found.append((str(func), where))
        return result


@EVERY_BACKEND
@EVERY_SCALAR
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=lambda d: str(d)[6:])
def test_one_gradient_sized_tensor_is_all_there_is(
    backend: str, reduction: str, kind: str, dtype: torch.dtype
) -> None:
    """Forward makes the tensor, and backward returns the same one."""
    x, pixels = draw((16, 3, 8, 8), dtype, kind)
    target, size = taken(pixels, kind), x.numel() * x.itemsize
    for leaf in (x, x.to(memory_format=torch.channels_last)):
        leaf = leaf.clone().requires_grad_()
        with PixelSized(size) as forward:
            nll = call("bernoulli", leaf, target, reduction=reduction, backend=backend)
        ((made_by, gradient),) = forward.found
        assert made_by.startswith("betavae_fast.likelihood_forward")
        with PixelSized(size) as backward:
            (grad,) = torch.autograd.grad(nll, leaf)
        assert not backward.found and grad.data_ptr() == gradient
        nll = call("bernoulli", leaf, target, reduction=reduction, backend=backend)
        (3 * nll).backward()
        with torch.no_grad(), PixelSized(size) as without:
            call("bernoulli", leaf, target, reduction=reduction, backend=backend)
        assert not without.found


@pytest.mark.parametrize("backend", available_backends("cpp"))
@EVERY_SCALAR
def test_the_compiled_kernels_allocate_nothing_else_either(backend: str, reduction: str) -> None:
    """The memory profiler, which sees inside operators, shows this, also for a gradient other than 1."""
    x, pixels = draw((64, 3, 32, 32), torch.float32, "uint8")
    leaf, size = x.requires_grad_(), x.numel() * x.itemsize

    def allocated(function: Callable[[], Any]) -> tuple[Any, int]:
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as p:
            result = function()
        return result, sum(
            max(0, event.cpu_memory_usage) for event in p.events() if event.name == "[memory]"
        ) + sum(max(0, event.self_cpu_memory_usage) for event in p.events() if event.name != "[memory]")

    nll, forward = allocated(lambda: call("bernoulli", leaf, pixels, reduction=reduction, backend=backend))
    assert size <= forward < 1.1 * size + 4096
    for scale in (1.0, 2.0):
        nll = call("bernoulli", leaf, pixels, reduction=reduction, backend=backend)
        g = torch.tensor(scale)
        _, backward = allocated(lambda n=nll, g=g: torch.autograd.grad(n, leaf, g))
        assert backward < size / 10, scale


# Special values.


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_LIKELIHOOD
@pytest.mark.parametrize("shape", [(41, 1), (41, 3), (41, 16), (41, 37), (5, 3, 7, 4)], ids=str)
def test_nan_stays_exactly_where_it_was(
    backend: str, dtype: torch.dtype, likelihood: str, shape: tuple[int, ...]
) -> None:
    x, target = draw(shape, dtype, "own")
    holes = torch.randint(24, shape, generator=torch.Generator().manual_seed(1))
    x[holes == 0], target[holes == 1] = math.nan, math.nan
    for y in (x, x.to(memory_format=torch.channels_last) if x.dim() == 4 else x.t().contiguous().t()):
        for t in (target, target.float()):
            nan = (y + t).isnan()
            unreduced = fused(likelihood, y, t, weights(x, "none"), reduction="none", backend=backend)
            assert torch.equal(unreduced.nll.isnan(), nan) and torch.equal(unreduced.grad.isnan(), nan)
            images = fused(likelihood, y, t, weights(x, "sample"), reduction="sample", backend=backend)
            assert torch.equal(images.nll.isnan(), nan.flatten(1).any(1))
            assert torch.equal(images.grad.isnan(), nan)
            for g in (None, torch.tensor(-2.5, dtype=images.nll.dtype)):
                total = fused(likelihood, y, t, g, reduction="batchmean", backend=backend)
                assert total.nll.isnan() and torch.equal(total.grad.isnan(), nan)
        for kind in ("bool", "uint8", "bits"):
            _, pixels = draw(shape, dtype, kind)
            found = fused(likelihood, y, taken(pixels, kind), None, reduction="sum", backend=backend)
            assert found.nll.isnan() and torch.equal(found.grad.isnan(), y.isnan())


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_LIKELIHOOD
def test_infinite_and_huge_outputs_give_what_the_formula_gives_in_float64(
    backend: str, dtype: torch.dtype, likelihood: str
) -> None:
    """In float32, exp(|x|) overflows at 89, and an infinite logit with its own target gives inf − inf."""
    huge = [math.inf, -math.inf, 1e4, -1e4, 500.0, -500.0, 120.0, -120.0, 90.0, -90.0, 0.0, -0.0]
    x, t = torch.cartesian_prod(torch.tensor(huge), torch.tensor([0.0, 1.0])).unbind(1)
    x = x.to(dtype).repeat(3)
    wide, kind = x.double(), torch.promote_types(dtype, torch.float32)
    for target in (t.repeat(3).to(dtype), t.repeat(3), t.repeat(3).bool(), (255 * t).byte().repeat(3)):
        pixels = target.double() / (255 if target.dtype == torch.uint8 else 1)
        s = SCALES[likelihood]
        exact = {
            "bernoulli": wide.clamp(min=0) - wide * pixels + torch.log1p(torch.exp(-wide.abs())),
            "gaussian": ((wide - pixels) / s).square() / 2 + math.log(s) + math.log(2 * math.pi) / 2,
            "laplace": (wide - pixels).abs() / s + math.log(2 * s),
        }[likelihood]
        slope = {
            "bernoulli": torch.sigmoid(wide) - pixels,
            "gaussian": (wide - pixels) / s**2,
            "laplace": torch.sign(wide - pixels) / s,
        }[likelihood]
        nll, grad = fused(likelihood, x, target, None, reduction="none", backend=backend)
        torch.testing.assert_close(nll, exact.to(kind), rtol=1e-6, atol=1e-30, equal_nan=True)
        torch.testing.assert_close(grad, slope.to(dtype), rtol=1e-2, atol=1e-30, equal_nan=True)


@EVERY_BACKEND
@EVERY_DTYPE
def test_the_gradient_of_a_laplace_is_zero_at_its_kink(backend: str, dtype: torch.dtype) -> None:
    x = torch.rand(5, 37).to(dtype)
    for reduction in REDUCTIONS:
        nll, grad = fused("laplace", x, x.clone(), None, reduction=reduction, backend=backend)
        assert not grad.any() and nll.isfinite().all()


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_REDUCTION
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,), (0, 0), (3, 0, 2), (0, 3, 2)], ids=str)
def test_empty_batches_reduce_as_torch_reduces_them(
    backend: str, dtype: torch.dtype, reduction: str, shape: tuple[int, ...]
) -> None:
    """The mean of no images is NaN, and sums of nothing are 0. Uninitialised memory would give something else."""
    nothing = torch.zeros(shape, dtype=torch.promote_types(dtype, torch.float32))
    rows = nothing.flatten(1).sum(1) if len(shape) > 1 else nothing
    expected = {"none": nothing, "sample": rows, "batchmean": rows.sum() / len(rows), "sum": rows.sum()}
    for kind, likelihood in itertools.product(KINDS, LIKELIHOODS):
        x, pixels = draw(shape, dtype, kind)
        for g in (None, torch.full_like(expected[reduction], 2.5)):
            found = fused(likelihood, x, taken(pixels, kind), g, reduction=reduction, backend=backend)
            torch.testing.assert_close(found.nll, expected[reduction], rtol=0, atol=0, equal_nan=True)
            assert found.grad.shape == torch.Size(shape) and found.grad.dtype == dtype


@EVERY_BACKEND
def test_a_one_dimensional_batch_is_one_pixel_an_image(backend: str) -> None:
    x, pixels = draw((13,), torch.float32, "uint8")
    for reduction in REDUCTIONS:
        flat = fused("bernoulli", x, pixels, None, reduction=reduction, backend=backend)
        column = fused("bernoulli", x[:, None], pixels[:, None], None, reduction=reduction, backend=backend)
        assert torch.equal(flat.nll, column.nll.reshape(flat.nll.shape))
        assert torch.equal(flat.grad, column.grad.flatten())


# Torch's own checks of the raw operators.

LIKELIHOOD_OPS = [op for op in OPERATORS if op.startswith("likelihood")]


def samples(op: str, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    """Arguments of the raw operator: strided, empty, with every kind of target and reduction."""
    turn = itertools.cycle(itertools.product(KINDS, LIKELIHOODS.values(), REDUCTIONS))
    for layout, shape in (
        ("contiguous", (5, 3)),
        ("transposed", (5, 3)),
        ("expanded", (5, 3)),
        ("channels_last", (2, 3, 2, 2)),
        ("sliced_channels_last", (2, 3, 2, 2)),
        ("contiguous", (0, 3)),
        ("contiguous", (3, 0)),
        ("contiguous", (4,)),
    ):
        for kind, likelihood, reduction in itertools.islice(turn, 4):
            x, pixels = laid_out((layout, "contiguous"), *draw(shape, dtype, kind))
            target = PackedBits.pack(pixels).rows if kind == "bits" else pixels
            arguments = x, target, kind == "bits", likelihood, 0.5
            if op == "likelihood_forward":
                for need_grad in (True, False) if reduction in SCALARS else (False,):
                    yield *arguments, MODES[reduction], need_grad
            elif op == "likelihood_backward":
                yield weights(x, reduction), *arguments, MODES[reduction]
            else:
                for value in (1.0, 0.5):
                    g = torch.tensor(value, dtype=torch.promote_types(dtype, torch.float32))
                    yield torch.zeros_like(x), g, *arguments, MODES["sum"]


@EVERY_BACKEND
@pytest.mark.parametrize("op", LIKELIHOOD_OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_opcheck(backend: str, op: str, dtype: torch.dtype) -> None:
    """opcheck tests the schema (the mutated arguments, nothing aliased), the fake against the real operator, and the
    autograd registration.
    """
    operator = getattr(torch.ops.betavae_fast, f"{op}_{backend}").default
    for arguments in samples(op, dtype):
        torch.library.opcheck(
            operator, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
        )


@EVERY_BACKEND
@pytest.mark.parametrize("op", LIKELIHOOD_OPS)
def test_opcheck_with_dynamic_shapes(backend: str, op: str) -> None:
    """The operator is traced with symbolic sizes. This is slow, so there are few inputs."""
    operator = getattr(torch.ops.betavae_fast, f"{op}_{backend}").default
    for arguments in itertools.islice(samples(op, torch.float32), 0, 17, 8):
        torch.library.opcheck(operator, arguments, test_utils=("test_aot_dispatch_dynamic",))


@pytest.mark.parametrize("backend", ["reference", "cpp", "triton", "cuda"])
def test_only_finish_says_that_it_writes_and_only_to_the_gradient(backend: str) -> None:
    missing(backend)
    for op in LIKELIHOOD_OPS:
        schema = getattr(torch.ops.betavae_fast, f"{op}_{backend}").default._schema
        written = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        assert written == (["grad"] if op == "likelihood_finish" else [])
        assert schema.is_mutable == bool(written)


@EVERY_BACKEND
@EVERY_DTYPE
def test_finish_leaves_what_backward_gives(backend: str, dtype: torch.dtype) -> None:
    """The results agree bit for bit in any memory format. For a gradient of 1, the gradient of forward stays."""
    ops = torch.ops.betavae_fast
    forward, backward, finish = (getattr(ops, f"{op}_{backend}").default for op in LIKELIHOOD_OPS)
    for kind, likelihood, reduction, layout in itertools.product(
        KINDS,
        LIKELIHOODS.values(),
        SCALARS,
        ("contiguous", "channels_last", "column_strided", "expanded_rows"),
    ):
        x, pixels = laid_out((layout, "contiguous"), *draw((5, 3, 6, 7), dtype, kind))
        target = PackedBits.pack(pixels).rows if kind == "bits" else pixels
        settings = (kind == "bits", likelihood, 0.5, MODES[reduction])
        _, grad = forward(x, target, *settings, True)
        for value in (1.0, 0.75, 1.0):
            g = torch.tensor(value, dtype=torch.promote_types(dtype, torch.float32))
            left = grad.clone()
            finish(left, g, x, target, *settings)
            assert torch.equal(left, backward(g, x, target, *settings)), (kind, likelihood, layout, value)

"""The kernels of the likelihood, compared with the float64 reference and the error budget."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from betavae_fast import bernoulli_nll
from betavae_fast.ops.reductions import LIKELIHOODS, REDUCTIONS
from tests.budget import Budget
from tests.layouts import dense, lay_out
from tests.ops.triton.interpreted.parity import call, check
from tests.ops.triton.likelihoods import (
    KINDS,
    NLL_REDUCTIONS,
    as_taken,
    exact_likelihood,
    pixels,
    plain_likelihood,
    settings,
)

pytestmark = pytest.mark.usefixtures("poisoned_memory")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def logits(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return (4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)


def check_all(decoded: Tensor, target: Tensor, grad_nll: Tensor | None = None, *mode: Any) -> None:
    """Check forward and backward. The sums may differ by roundings of their largest terms."""
    extent = torch.tensor(30.0 if mode[3] == REDUCTIONS["none"] else 3.0 * decoded.numel())
    check("likelihood_forward", decoded, target, *mode, True, extent=extent)
    if grad_nll is None:
        nll = call("likelihood_forward", "reference", decoded, target, *mode, False)[0]
        grad_nll = torch.randn(nll.shape, generator=torch.Generator().manual_seed(2))
    check("likelihood_backward", grad_nll, decoded, target, *mode, extent=torch.tensor(1.0))


# The layouts of decoded and target.
LAYOUTS = (
    ("channels_last", "channels_last"),
    ("channels_last", "contiguous"),
    ("contiguous", "channels_last"),
    ("row_strided", "expanded_rows"),
    ("sliced_channels_last", "contiguous"),
    ("transposed", "transposed"),
    ("unaligned", "contiguous"),
    ("expanded_columns", "contiguous"),
)


def laid_out(layout: str, x: Tensor) -> Tensor:
    if x.is_floating_point():
        return lay_out(layout, x)[0]
    return {
        "channels_last": lambda: x.contiguous(memory_format=torch.channels_last),
        "expanded_rows": lambda: x[:1].expand_as(x),
        "transposed": lambda: x.transpose(0, -1).contiguous().transpose(0, -1),
        "contiguous": lambda: x,
    }[layout]()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("decoded_layout", "target_layout"), LAYOUTS)
def test_every_layout(decoded_layout: str, target_layout: str, kind: str) -> None:
    i = LAYOUTS.index((decoded_layout, target_layout)) + KINDS.index(kind)
    dtype, likelihood = DTYPES[i % 3], tuple(LIKELIHOODS)[i // 3 % 3]
    (decoded,) = lay_out(decoded_layout, logits((3, 2, 4, 3), dtype))
    target = as_taken(laid_out(target_layout, pixels((3, 2, 4, 3), dtype, kind)), kind)
    for reduction in ("sample", "none") if i % 2 else ("batchmean",):
        check_all(decoded, target, None, *settings(likelihood, kind, reduction))


# One row, one column, one dimension, rows without a whole number of bytes, rows longer than a tile.
SHAPES = ((1, 1), (300, 1), (7,), (5, 9), (2, 3, 5, 7), (2, 261), (3, 520))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["own", "bits"])
def test_every_shape(shape: tuple[int, ...], kind: str) -> None:
    target = as_taken(pixels(shape, torch.float32, kind), kind)
    for reduction in ("sample", "sum"):
        check_all(logits(shape, torch.float32), target, None, *settings("bernoulli", kind, reduction))


@pytest.mark.usefixtures("big_tiles")
@pytest.mark.parametrize("kind", ["own", "uint8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_error(likelihood: str, dtype: torch.dtype, kind: str) -> None:
    target = pixels((256, 128), dtype, kind)
    for bound in (1e-2, 1.0, 100.0):
        decoded = torch.linspace(-bound, bound, 1 << 15).view(256, 128).to(dtype)
        grad_nll = torch.randn(decoded.shape, generator=torch.Generator().manual_seed(2))
        mode = settings(likelihood, kind, "none")
        (nll, _), (grad,) = (
            call("likelihood_forward", "triton", decoded, target, *mode, False),
            call("likelihood_backward", "triton", grad_nll, decoded, target, *mode),
        )
        exact, plain = (
            f(decoded, target, grad_nll, likelihood, "none") for f in (exact_likelihood, plain_likelihood)
        )
        for i, (name, got) in enumerate((("nll", nll), ("grad", grad))):
            budget = Budget()
            budget.add(got, exact[i], plain[i])
            budget.check(f"{name} of {likelihood} up to {bound} in {dtype}")


@pytest.mark.parametrize(
    ("likelihood", "reduction"), list(itertools.product(LIKELIHOODS, NLL_REDUCTIONS[1:]))
)
def test_error_of_sums(likelihood: str, reduction: str) -> None:
    """The tiles have their real size, because the error of a sum depends on how it is cut up."""
    decoded, target = logits((9, 1100), torch.float32), pixels((9, 1100), torch.float32, "own")
    mode = settings(likelihood, "own", reduction)
    nll, early = call("likelihood_forward", "triton", decoded, target, *mode, True)
    exact, plain = (
        f(decoded, target, torch.ones_like(nll), likelihood, reduction)
        for f in (exact_likelihood, plain_likelihood)
    )
    for i, got in enumerate((nll, early)):
        budget = Budget()
        budget.add(got, exact[i], plain[i])
        budget.check(f"{('nll', 'grad')[i]} of {likelihood}, {reduction}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_infinities_and_nan(likelihood: str, dtype: torch.dtype) -> None:
    odd = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 89.0, -104.0, 1.0]
    decoded = torch.tensor(odd, dtype=dtype).repeat_interleave(8).view(8, 8)
    target = torch.tensor(odd, dtype=dtype).repeat(8).view(8, 8)
    mode = settings(likelihood, "own", "none")
    check("likelihood_forward", decoded, target, *mode, False, extent=torch.tensor(30.0))
    _, grad = call("likelihood_forward", "triton", decoded, target, *mode, True)
    x, t = decoded.double(), target.double()
    slope = {
        "bernoulli": x.sigmoid() - t,
        "gaussian": (x - t) / mode[2] ** 2,
        "laplace": torch.where((x - t).isnan(), x - t, (x - t).sign()) / mode[2],
    }[likelihood]
    torch.testing.assert_close(grad, slope.to(dtype), equal_nan=True)


def test_a_nan_stays_in_its_sample() -> None:
    decoded, target = logits((40, 30), torch.float32), pixels((40, 30), torch.float32, "bool")
    decoded[7, 3] = float("nan")
    nll, grad = call(
        "likelihood_forward", "triton", decoded, target, *settings("bernoulli", "bool", "sample"), True
    )
    assert nll.isnan().nonzero().tolist() == [[7]] and grad.isnan().nonzero().tolist() == [[7, 3]]


def test_laplace_has_no_slope_at_its_centre() -> None:
    decoded = torch.tensor([[0.5, 0.25, 1.0]])
    _, grad = call("likelihood_forward", "triton", decoded, torch.full((1, 3), 0.5), False, 2, 0.5, 4, True)
    assert grad.tolist() == [[0.0, -2.0, 2.0]]


def test_every_uint8_pixel_is_correctly_rounded() -> None:
    target = torch.arange(256, dtype=torch.uint8)[None]
    gaussian = (False, LIKELIHOODS["gaussian"], 1.0, REDUCTIONS["sum"])
    _, grad = call("likelihood_forward", "triton", torch.zeros(1, 256), target, *gaussian, True)
    assert torch.equal(-grad, (target.double() / 255).float())


@pytest.mark.parametrize("kind", ["own", "bits"])
@pytest.mark.parametrize("reduction", ["batchmean", "sum"])
def test_finish_writes_only_where_the_gradient_is_not_one(reduction: str, kind: str) -> None:
    decoded = lay_out("channels_last", logits((3, 2, 4, 3), torch.bfloat16))[0]
    target = as_taken(pixels((3, 2, 4, 3), torch.bfloat16, kind), kind)
    rest = (decoded, target, *settings("bernoulli", kind, reduction))
    for value in (1.0, 0.5, -2.0, 0.0, float("nan")):
        grad_nll, grad = torch.tensor(value), torch.full_like(decoded, 77.0)
        call("likelihood_finish", "triton", grad, grad_nll, *rest)
        if value == 1.0:
            assert (grad == 77).all()
        else:
            assert torch.equal(
                grad.float().nan_to_num(99),
                call("likelihood_backward", "triton", grad_nll, *rest)[0].float().nan_to_num(99),
            )


@pytest.mark.parametrize("reduction", ["none", "sample", "sum"])
def test_a_gradient_may_have_any_strides(reduction: str) -> None:
    decoded, target = logits((6, 20), torch.float32), pixels((6, 20), torch.float32, "own")
    shape = {"none": (6, 20), "sample": (6,), "sum": ()}[reduction]
    strided = torch.randn(*shape, 3)[..., 1]
    for grad_nll in (strided, torch.tensor(0.3).expand(shape)):
        check_all(decoded, target, grad_nll, *settings("gaussian", "own", reduction))


@pytest.mark.parametrize("kind", ["own", "bits"])
def test_four_strides_within_a_row(kind: str) -> None:
    """The kernel does not take so many strides, so the op makes a copy."""
    decoded = logits((2, 2, 4, 3, 10), torch.float32)[..., ::2].permute(0, 3, 1, 4, 2)
    pixel = pixels((2, 5, 3, 2, 4), torch.float32, kind)
    target = as_taken(pixel.permute(0, 2, 3, 1, 4), kind)
    for reduction in ("none", "sample", "batchmean"):
        check_all(decoded, target, None, *settings("bernoulli", kind, reduction))


@pytest.mark.parametrize("layout", ["channels_last", "transposed"])
def test_bits_do_not_depend_on_the_memory_format(layout: str) -> None:
    """Decoded and target of the same memory format are read as if contiguous. The gradient has the same bits."""
    decoded, target = (
        lay_out(layout, x)[0] for x in (logits((3, 2, 4, 3), torch.float32), torch.rand(3, 2, 4, 3))
    )
    mode = (*settings("bernoulli", "own", "none"), True)
    for a, b in zip(
        call("likelihood_forward", "triton", decoded, target, *mode),
        call("likelihood_forward", "triton", dense(decoded), dense(target), *mode),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)], ids=str)
@pytest.mark.parametrize("reduction", NLL_REDUCTIONS)
def test_empty(shape: tuple[int, ...], reduction: str) -> None:
    for kind in ("own", "bits"):
        target = (
            torch.empty(shape[0], 0 if shape[1] == 0 else 1, dtype=torch.uint8)
            if kind == "bits"
            else torch.empty(shape)
        )
        check_all(torch.empty(shape), target, None, *settings("bernoulli", kind, reduction))


def test_through_autograd() -> None:
    """The test covers the gradient that forward leaves, and the gradient computed again if the upstream gradient is not
    1.
    """
    target = pixels((5, 9), torch.float32, "bool")
    for factor in (1.0, 3.0):
        grads = []
        for backend in ("triton", "reference"):
            x = logits((5, 9), torch.float32).requires_grad_()
            (factor * bernoulli_nll(x, target, backend=backend)).backward()
            grads.append(x.grad)
        torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-7)


def test_float64_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="float64"):
        bernoulli_nll(torch.zeros(2, 3).double(), torch.zeros(2, 3), backend="triton")


@pytest.mark.parametrize("kind", ["own", "bits"])
def test_opcheck(kind: str) -> None:
    decoded, target = logits((4, 6), torch.bfloat16), as_taken(pixels((4, 6), torch.bfloat16, kind), kind)
    ops, mode = torch.ops.betavae_fast, settings("laplace", kind, "sum")
    tests = ("test_schema", "test_faketensor")
    check_op = lambda op, *arguments: torch.library.opcheck(op, arguments, test_utils=tests)
    check_op(ops.likelihood_forward_triton.default, decoded, target, *mode, True)
    check_op(ops.likelihood_backward_triton.default, torch.tensor(2.0), decoded, target, *mode)
    check_op(ops.likelihood_finish_triton.default, decoded, torch.tensor(2.0), decoded, target, *mode)

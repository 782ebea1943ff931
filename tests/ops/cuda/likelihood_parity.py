"""The checks of the CUDA backend's likelihood, on a GPU or emulated, as ``device`` says."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from betavae_fast import PackedBits
from betavae_fast.ops.reductions import LIKELIHOODS, REDUCTIONS
from tests.budget import Budget, exact_nll, plain_nll
from tests.layouts import dense, fits, lay_out

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TARGETS = ("float32", "own", "uint8", "bool", "bits")
NLL_REDUCTIONS = ("none", "sample", "batchmean", "sum")
SCALES = {"bernoulli": 1.0, "gaussian": 0.3, "laplace": 0.7}

# The layouts of decoded and target in memory.
_LAYOUTS = (
    ("contiguous", "contiguous"),
    ("contiguous", "row_strided"),
    ("contiguous", "expanded_rows"),
    ("unaligned", "contiguous"),
    ("row_strided", "row_strided"),
    ("column_strided", "contiguous"),
    ("transposed", "contiguous"),
    ("contiguous", "reversed"),
    ("channels_last", "channels_last"),
    ("channels_last", "contiguous"),
    ("contiguous", "channels_last"),
    ("sliced_channels_last", "channels_last"),
)


def ops():
    return torch.ops.betavae_fast


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, kind: str, device: str, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The decoder's output and pixels of this kind. The pixels of "bits" are still bool."""
    generator = torch.Generator().manual_seed(seed)
    decoded = 4 * torch.randn(shape, generator=generator)
    grey = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    target = {
        "float32": grey / 255,
        "own": (grey / 255).to(dtype),
        "uint8": grey,
        "bool": grey > 127,
        "bits": grey > 127,
    }[kind]
    return decoded.to(device, dtype), target.to(device)


def _lay_out_pixels(layout: str, x: Tensor) -> Tensor:
    match layout:
        case "channels_last":
            return x.contiguous(memory_format=torch.channels_last)
        case "expanded_rows":
            return x[:1].expand_as(x)
        case "row_strided":
            return x.repeat_interleave(2, 0)[::2]
        case "reversed":
            return x.transpose(1, -1).contiguous().transpose(1, -1)
    return dense(x)


def _laid_out(
    shape: tuple[int, ...], dtype: torch.dtype, kind: str, device: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(decoded, target as the op takes it, its pixels) in every layout, each with its own numbers."""
    for seed, (decoded_layout, target_layout) in enumerate(_LAYOUTS):
        if not (fits(decoded_layout, len(shape)) and fits(target_layout, len(shape))):
            continue
        decoded, target = inputs(shape, dtype, kind, device, seed)
        pixels = _lay_out_pixels(target_layout, target)
        taken = PackedBits.pack(pixels).rows if kind == "bits" else pixels
        yield lay_out(decoded_layout, decoded)[0], taken, dense(pixels)


def check_parity(
    shape: tuple[int, ...], dtype: torch.dtype, kind: str, likelihood: str, reduction: str, device: str
) -> None:
    """Compare NLL and gradient with float64 in every layout. The gradient that forward leaves is backward's for 1."""
    scale, mode = SCALES[likelihood], REDUCTIONS[reduction]
    settings = (kind == "bits", LIKELIHOODS[likelihood], scale, mode)
    nll_budget, grad_budget = Budget(), Budget()
    for decoded, target, pixels in _laid_out(shape, dtype, kind, device):
        nll, early = ops().likelihood_forward_cuda(decoded, target, *settings, True)
        alone, nothing = ops().likelihood_forward_cuda(decoded, target, *settings, False)
        assert torch.equal(alone, nll) and nothing.numel() == 0
        ones = torch.ones_like(nll)
        assert torch.equal(early, ops().likelihood_backward_cuda(ones, decoded, target, *settings))
        grad_nll = torch.linspace(-1, 2, nll.numel(), device=device).view(nll.shape)
        grad = ops().likelihood_backward_cuda(grad_nll, decoded, target, *settings)
        assert grad.stride() == early.stride() == torch.empty_like(decoded).stride()

        host = (dense(decoded).cpu(), pixels.cpu(), likelihood, scale, reduction, grad_nll.cpu())
        exact, plain = exact_nll(*host), plain_nll(*host)
        nll_budget.add(nll.cpu(), exact.nll, plain.nll)
        grad_budget.add(grad.cpu(), exact.grad, plain.grad)
    nll_budget.check(f"nll {shape} {dtype} {kind} {likelihood} {reduction}")
    grad_budget.check(f"grad {shape} {dtype} {kind} {likelihood} {reduction}")


def check_grad_nll_of_any_strides(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    """Check that an expanded or sliced gradient gives the bits of a dense one."""
    decoded, target = inputs(shape, dtype, "uint8", device)
    settings = (False, LIKELIHOODS["bernoulli"], 1.0)
    rows = torch.linspace(-1, 2, 2 * shape[0], device=device)[::2]
    column = rows.view(-1, *(1,) * (len(shape) - 1))
    for reduction, grad_nll in (
        ("sample", rows),
        ("sample", rows[:1].expand(shape[0])),
        ("none", column.expand(shape)),
        ("none", rows[0].expand(shape)),
        ("none", decoded.float().transpose(1, -1).contiguous().transpose(1, -1)),
    ):
        laid, flat = (
            ops().likelihood_backward_cuda(g, decoded, target, *settings, REDUCTIONS[reduction])
            for g in (grad_nll, dense(grad_nll))
        )
        assert torch.equal(laid, flat), (reduction, grad_nll.stride())


def check_finish(shape: tuple[int, ...], dtype: torch.dtype, kind: str, device: str) -> None:
    """Check that a gradient of 1 leaves any values in place, and that another one replaces them by backward's."""
    for decoded, target, _ in _laid_out(shape, dtype, kind, device):
        settings = (kind == "bits", LIKELIHOODS["bernoulli"], 1.0, REDUCTIONS["batchmean"])
        for value in (1.0, 0.75, math.nan):
            grad_nll, grad = torch.tensor(value, device=device), torch.full_like(decoded, 7.0)
            ops().likelihood_finish_cuda(grad, grad_nll, decoded, target, *settings)
            if value == 1:
                assert (grad == 7).all()
            else:
                expected = ops().likelihood_backward_cuda(grad_nll, decoded, target, *settings)
                assert torch.equal(grad.nan_to_num(5), expected.nan_to_num(5))


def check_pixels(device: str) -> None:
    """Check that every uint8 pixel is the float32 nearest to a 255th, which the gradient of a Gaussian at 0 shows."""
    pixels = torch.arange(256, dtype=torch.uint8, device=device).view(1, 256)
    zero = torch.zeros(1, 256, device=device)
    for decoded in (zero, zero.half()):
        settings = (False, LIKELIHOODS["gaussian"], 1.0, REDUCTIONS["sum"])
        _, grad = ops().likelihood_forward_cuda(decoded, pixels, *settings, True)
        assert torch.equal(-grad, (pixels.float() / 255).to(decoded.dtype))


def check_extremes(device: str) -> None:
    """Check logits that overflow exp, infinities, NaN, and a Laplace at its kink."""
    x = torch.tensor([[1e4, -1e4, 120.0, -120.0, math.inf, -math.inf, math.nan, 0.0]], device=device)
    t = torch.tensor([[True, False, False, True, True, False, True, True]], device=device)
    for name in ("bernoulli", "gaussian"):
        settings = (False, LIKELIHOODS[name], 1.0, REDUCTIONS["none"])
        for target in (t, PackedBits.pack(t).rows):
            taken = (target.dtype == torch.uint8, *settings[1:])
            nll, grad = ops().likelihood_forward_cuda(x, target, *taken, True)
            expected = ops().likelihood_forward_reference(x.cpu(), t.cpu(), *settings, True)
            torch.testing.assert_close((nll.cpu(), grad.cpu()), expected, equal_nan=True)
    inf = torch.tensor([[math.inf, -math.inf, 1.0, math.nan]], device=device)
    settings = (False, LIKELIHOODS["laplace"], 0.5, REDUCTIONS["none"])
    grad = ops().likelihood_forward_cuda(inf, torch.ones_like(inf), *settings, True)[1]
    torch.testing.assert_close(grad.cpu(), torch.tensor([[2.0, -2.0, 0.0, math.nan]]), equal_nan=True)


def check_empty(device: str) -> None:
    for shape in ((0, 10), (4, 0), (0, 0), (0, 3, 4)):
        x, target = torch.empty(shape, device=device), torch.empty(shape, dtype=torch.uint8, device=device)
        bits = torch.empty(shape[0], -(-math.prod(shape[1:]) // 8), dtype=torch.uint8, device=device)
        for name in NLL_REDUCTIONS:
            for taken in (target, bits):
                settings = (taken is bits, 0, 1.0, REDUCTIONS[name])
                nll, grad = ops().likelihood_forward_cuda(x, taken, *settings, True)
                cpu = (x.cpu(), target.cpu(), False, *settings[1:])
                expected, _ = ops().likelihood_forward_reference(*cpu, False)
                assert grad.shape == x.shape
                torch.testing.assert_close(nll.cpu(), expected, equal_nan=True)
                back = ops().likelihood_backward_cuda(torch.ones_like(nll), x, taken, *settings)
                assert back.shape == x.shape


def check_refusals(device: str) -> None:
    x, scalar = torch.zeros(2, 9, device=device), torch.ones((), device=device)
    settings = (False, 0, 1.0, REDUCTIONS["sum"])
    packed = (True, *settings[1:])
    rows = torch.zeros(2, 2, dtype=torch.uint8, device=device)
    forward, backward, finish = (
        getattr(ops(), f"likelihood_{name}_cuda") for name in ("forward", "backward", "finish")
    )
    for match, call in (
        ('backend="reference"', lambda: forward(x.double(), x, *settings, False)),
        (r"same shape, got \(2, 9\) and \(2, 8\)", lambda: forward(x, x[:, 1:], *settings, False)),
        ("Float, got Double", lambda: forward(x, x.double(), *settings, False)),
        ("Float, got Half", lambda: forward(x, x.half(), *settings, False)),
        (r"\(2, 2\), got Byte \(2, 1\)", lambda: forward(x, rows[:, :1], *packed, False)),
        ("contiguous", lambda: forward(x, rows.T, *packed, False)),
        ("got Bool", lambda: forward(x, rows.bool(), *packed, False)),
        ("likelihood must be 0, 1 or 2, got 3", lambda: forward(x, x, False, 3, 1.0, 4, False)),
        ("reduction must be 0, 2, 3 or 4, got 1", lambda: forward(x, x, False, 0, 1.0, 1, False)),
        ("batch dimension", lambda: forward(scalar, scalar, *settings, False)),
        ("NLL's dtype, Float, .*got Half", lambda: backward(scalar.half(), x, x, *settings)),
        ("0 dimensions", lambda: backward(torch.ones(2, device=device), x, x, *settings)),
        ("one number", lambda: finish(x, torch.ones(2, device=device), x, x, *settings)),
        (r"\(2, 9\) Float, on its device, got \(2, 8\)", lambda: finish(x[:, 1:], scalar, x, x, *settings)),
    ):
        with pytest.raises(RuntimeError, match=match):
            call()

"""The loss, compared with the formula written out pixel by pixel in float64."""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from betavae_fast import PackedBits
from betavae_fast.nn import BetaVAELoss, ReconstructionLoss

SHAPE = (3, 2, 4, 4)


def by_hand(likelihood: str, decoded: torch.Tensor, target: torch.Tensor, scale: float) -> float:
    """Compute −log p, summed over pixels and averaged over images."""
    total = 0.0
    for a, x in zip(decoded.double().flatten().tolist(), target.double().flatten().tolist(), strict=True):
        if likelihood == "bernoulli":
            p = 1 / (1 + math.exp(-a))
            total -= x * math.log(p) + (1 - x) * math.log(1 - p)
        elif likelihood == "gaussian":
            total -= math.log(math.exp(-0.5 * ((x - a) / scale) ** 2) / (scale * math.sqrt(2 * math.pi)))
        else:
            total -= math.log(math.exp(-abs(x - a) / scale) / (2 * scale))
    return total / len(decoded)


@pytest.mark.parametrize("likelihood, scale", [("bernoulli", 1.0), ("gaussian", 0.3), ("laplace", 2.0)])
@pytest.mark.parametrize("target_dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_loss_is_the_formula(likelihood, scale, target_dtype):
    generator = torch.Generator().manual_seed(2)
    decoded = torch.randn(SHAPE, generator=generator)
    pixels = torch.randint(0, 256, SHAPE, generator=generator, dtype=torch.uint8)
    target = {torch.bool: pixels > 127, torch.uint8: pixels}.get(target_dtype, pixels.to(target_dtype) / 255)
    kl_per_dim = torch.tensor([0.5, 0.0, 2.0])

    out = BetaVAELoss(beta=4.0, likelihood=likelihood, scale=scale)(decoded, target, kl_per_dim)

    expected = by_hand(likelihood, decoded, target / 255 if target_dtype == torch.uint8 else target, scale)
    assert out.reconstruction.item() == pytest.approx(expected, rel=1e-6)
    assert out.kl.item() == 2.5
    assert out.total.item() == pytest.approx(expected + 4.0 * 2.5, rel=1e-6)
    assert torch.equal(out.kl_per_dim, kl_per_dim)


def test_gradients_reach_the_decoder_and_the_kl_with_the_weight_beta():
    decoded = torch.zeros(SHAPE, requires_grad=True)
    kl_per_dim = torch.zeros(5, requires_grad=True)
    BetaVAELoss(beta=3.0)(decoded, torch.ones(SHAPE, dtype=torch.bool), kl_per_dim).total.backward()
    torch.testing.assert_close(decoded.grad, torch.full(SHAPE, -0.5 / SHAPE[0]))  # (sigmoid(0) − 1) / B
    assert torch.equal(kl_per_dim.grad, torch.full((5,), 3.0))


def test_half_precision_logits_are_summed_in_float32():
    decoded = torch.zeros(1, 1, 300, 300, dtype=torch.bfloat16)
    out = BetaVAELoss()(decoded, torch.ones_like(decoded, dtype=torch.bool), torch.zeros(1))
    assert out.reconstruction.dtype == torch.float32
    assert out.reconstruction.item() == pytest.approx(300 * 300 * math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"likelihood": "poisson"}, "bernoulli, gaussian, laplace; got 'poisson'"),
        ({"beta": -1.0}, "at least 0, got -1.0"),
        ({"beta": math.nan}, "got nan"),
        ({"likelihood": "gaussian", "scale": 0.0}, "positive number, got 0.0"),
        ({"scale": 0.5}, "no scale, got scale=0.5"),
    ],
)
def test_malformed_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BetaVAELoss(**arguments)


def test_malformed_targets_are_named():
    loss = BetaVAELoss()
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\) and \(2, 1, 8, 4\)"):
        loss(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 4), torch.zeros(1))
    with pytest.raises(TypeError, match="int64"):
        loss(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(1))


KL = torch.zeros(1)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EVERY_FLOAT = pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: str(d)[6:])
DENSITIES = pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])


def grey(dtype: torch.dtype = torch.float32) -> Tensor:
    """Images with black, white and grey pixels."""
    return torch.linspace(0, 1, math.prod(SHAPE)).view(SHAPE).to(dtype)


def with_pixel(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images whose last pixel alone is ``value``."""
    images = grey(dtype)
    images.view(-1)[-1] = value
    return images


def loss_of(target: Tensor | PackedBits, loss: BetaVAELoss | None = None) -> Tensor:
    return (loss or BetaVAELoss())(torch.zeros(SHAPE), target, KL).total


BYTES = "pass uint8 pixels as they are, or divide by 255"
OTHER = "scale them to [0, 1], or choose a Gaussian likelihood"


@EVERY_FLOAT
@pytest.mark.parametrize(
    "make, found",
    [
        (lambda dtype: 255 * grey(dtype), f"got 0 to 255; {BYTES}"),
        (lambda dtype: with_pixel(2, dtype), f"got 0 to 2; {BYTES}"),
        (lambda dtype: 2 * grey(dtype) - 1, f"got -1 to 1; {OTHER}"),
        (lambda dtype: grey(dtype) - 0.25, f"got -0.25 to 0.75; {OTHER}"),
        (lambda dtype: with_pixel(math.inf, dtype), "got 0 to inf"),
        (lambda dtype: with_pixel(math.nan, dtype), "got NaN"),
        (lambda dtype: 32768 * grey(dtype), f"got 0 to 32768; {OTHER}"),
    ],
    ids=["bytes", "one pixel", "tanh", "shifted", "inf", "nan", "16 bit"],
)
def test_bernoulli_targets_outside_0_1_are_refused(make: Any, found: str, dtype: torch.dtype) -> None:
    loss = BetaVAELoss()
    loss_of(grey(), loss)
    for target in (make(dtype), make(dtype).contiguous(memory_format=torch.channels_last)):
        with pytest.raises(ValueError, match=re.escape(f"BetaVAELoss: targets must lie in [0, 1], {found}")):
            loss_of(target, loss)
    with pytest.raises(
        ValueError, match=re.escape(f"ReconstructionLoss: targets must lie in [0, 1], {found}")
    ):
        ReconstructionLoss()(torch.zeros(SHAPE), make(dtype))


@EVERY_FLOAT
def test_bernoulli_targets_may_be_at_the_bounds_and_a_rounding_beyond(dtype: torch.dtype) -> None:
    step = max(1e-5, torch.finfo(dtype).eps)
    for target in (grey(dtype), with_pixel(1 + step, dtype), with_pixel(-step, dtype), grey(dtype)[:, ::2]):
        loss = ReconstructionLoss()(torch.zeros(target.shape), target)
        expected = math.prod(target.shape[1:]) * math.log(2)
        # The logits are 0, so the target does not matter.
        assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_targets_that_are_no_floats_are_not_looked_at() -> None:
    bits = grey() > 0.5
    for target in ((255 * grey()).to(torch.uint8), bits, PackedBits.pack(bits)):
        assert loss_of(target).item() == pytest.approx(32 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "laplace"])
def test_a_batch_without_images_or_pixels_is_no_mistake(likelihood: str) -> None:
    loss = ReconstructionLoss(likelihood)
    loss(torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 8, 8))
    loss(torch.zeros(2, 0), torch.zeros(2, 0))


@DENSITIES
@EVERY_FLOAT
@pytest.mark.parametrize(
    "value, found", [(math.nan, "NaN"), (math.inf, "0 to inf"), (-math.inf, "-inf to 1")]
)
def test_densities_refuse_targets_that_are_not_finite(likelihood, dtype, value, found) -> None:
    target = with_pixel(value, dtype)
    if value < 0:
        target.view(-1)[0] = 1
    with pytest.raises(ValueError, match=f"BetaVAELoss: targets must be finite, got {found}"):
        loss_of(target, BetaVAELoss(likelihood=likelihood))


@DENSITIES
def test_densities_take_standardised_targets_without_a_word(likelihood: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scale, target in ((1.0, 3 * torch.randn(SHAPE)), (0.1, grey()), (25.0, 255 * grey())):
            loss_of(target, BetaVAELoss(likelihood=likelihood, scale=scale))


@DENSITIES
@pytest.mark.parametrize("shift", [0, -128])
def test_densities_warn_once_of_pixels_0_to_255_beside_a_scale_of_0_to_1(likelihood, shift) -> None:
    loss, target = BetaVAELoss(likelihood=likelihood, scale=0.5), 255 * grey() + shift
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for batch in (grey(), target, target):
            loss_of(batch, loss)
    (warning,) = seen
    assert str(warning.message) == (
        f"BetaVAELoss: targets from {shift} to {255 + shift} for a density of width 0.5; {BYTES}"
    )


def test_a_loss_can_be_copied_and_pickled_with_its_check() -> None:
    for loss in (copy.deepcopy(BetaVAELoss()), pickle.loads(pickle.dumps(BetaVAELoss()))):
        with pytest.raises(ValueError, match="BetaVAELoss: targets must lie"):
            loss_of(255 * grey(), loss)


def test_tracing_programs_does_not_look_at_numbers_that_are_not_there() -> None:
    """Tracing leaves nothing of the check in the program."""
    loss, decoded, target = BetaVAELoss(), torch.zeros(SHAPE), grey()

    class Call(torch.nn.Module):
        def forward(self, decoded: Tensor, target: Tensor) -> Tensor:
            return loss(decoded, target, KL).total

    expected = loss_of(target)
    torch._dynamo.reset()
    compiled = torch.compile(Call(), fullgraph=True, backend="aot_eager")
    exported = torch.export.export(Call(), (decoded, target))
    traced = make_fx(Call())(decoded, target)
    for program in (compiled, exported.module(), traced):
        assert torch.equal(program(decoded, target), expected)
    for graph in (exported.graph, traced.graph):
        assert not any("amin" in str(node.target) or "scalar" in str(node.target) for node in graph.nodes)
    with FakeTensorMode() as fake:
        inputs = map(fake.from_tensor, (decoded, target, KL))
        assert loss(*inputs).total.shape == ()
    assert loss(*(x.to("meta") for x in (decoded, target, KL))).total.is_meta


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_waits_for_the_first_targets_alone() -> None:
    decoded, good = torch.zeros(SHAPE, device="cuda"), grey().cuda()
    with pytest.raises(ValueError, match="got 0 to 255"):
        BetaVAELoss()(decoded, 255 * good, KL.cuda())
    loss, kl = BetaVAELoss(), KL.cuda()
    graph = torch.cuda.CUDAGraph()
    BetaVAELoss()(decoded, good, kl)  # The kernels are built before the capture.
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = loss(decoded, good, kl).total
    graph.replay()
    assert torch.equal(captured, loss(decoded, good, kl).total)  # This call checks the pixels.
    loss(decoded, 255 * good, kl)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        BetaVAELoss()(decoded, good, kl)  # If waiting is forbidden, the check does not wait.
    finally:
        torch.cuda.set_sync_debug_mode(mode)

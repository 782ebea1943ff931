"""The convolutions with kernel 4, stride 2 and padding 1 in bfloat16, against float64."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing._internal.two_tensor import TwoTensor

from betavae_fast.nn.convolutions import ConvTranspose2d, convolves
from betavae_fast.nn.sequential import Sequential
from betavae_fast.ops import convolution
from betavae_fast.ops.convolution import ConvolutionFunction, serves
from tests.backends import fresh_process, require_cpu_capability

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# (images, coarse channels, fine channels, coarse rows, coarse columns)
SHAPES = (
    (1, 16, 16, 1, 1),
    (3, 16, 3, 7, 5),
    (2, 32, 1, 16, 33),
    (5, 32, 32, 4, 4),
    (2, 48, 32, 3, 9),
    (9, 32, 4, 2, 3),
    (2, 64, 64, 8, 2),
    (33, 32, 32, 8, 8),
    (2, 272, 272, 2, 2),
    (0, 32, 32, 4, 4),
)
KINDS = [(transposed, relu) for transposed in (False, True) for relu in (False, True)]

needs_kernels = pytest.mark.skipif(
    not serves(torch.empty(16, 16, 4, 4)), reason="this CPU, or the build, has no kernels in bfloat16"
)
kinds = pytest.mark.parametrize(("transposed", "relu"), KINDS)


@pytest.fixture(autouse=True)
def poisoned_buffers() -> None:
    """Leave NaN in the threads' buffers, which every call uses again."""
    if serves(torch.empty(16, 16, 4, 4)):
        for transposed in (False, True):
            x, weight, bias = (
                torch.full_like(t, float("nan")) for t in operands((64, 32, 32, 16, 16), transposed)
            )
            y = convolution._FORWARD(x, weight, bias, transposed, False)
            convolution._BACKWARD(y, None, x, weight, transposed, True)


def operands(shape: tuple[int, ...], transposed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias."""
    images, coarse, fine, rows, cols = shape
    random = torch.Generator().manual_seed(sum(shape))
    size = (coarse, rows, cols) if transposed else (fine, 2 * rows, 2 * cols)
    x = torch.randn(images, *size, generator=random).to(torch.bfloat16, memory_format=torch.channels_last)
    weight = 0.1 * torch.randn(coarse, fine, 4, 4, generator=random)
    return x, weight, torch.randn(fine if transposed else coarse, generator=random)


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    return (F.conv_transpose2d if transposed else F.conv2d)(x, weight, bias, stride=2, padding=1)


def assert_close(found: Tensor, exact: Tensor, magnitude: Tensor, rounding: float) -> None:
    """``magnitude`` is the sum of the terms' absolute values, which bounds the rounding of a sum in float32."""
    error = (found.double() - exact).abs()
    assert (error <= rounding * exact.abs() + 1e-6 * magnitude).all(), (error / magnitude).max()


@needs_kernels
@kinds
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("narrow", [False, True], ids=["float32 weight", "bfloat16 weight"])
def test_values_and_gradients_are_those_of_float64(
    shape: tuple[int, ...], transposed: bool, relu: bool, narrow: bool
) -> None:
    x, weight, bias = operands(shape, transposed)
    weight = weight.bfloat16() if narrow else weight.contiguous(memory_format=torch.channels_last)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    y = ConvolutionFunction.apply(*leaves, transposed, relu)
    grad = torch.randn(y.shape[::-1]).bfloat16().permute(3, 2, 1, 0)
    found = torch.autograd.grad(y, leaves, grad)

    exact = [t.detach().bfloat16().double().requires_grad_() for t in (x, weight)]
    exact.append(bias.detach().double().requires_grad_())
    absolute = [t.detach().abs().requires_grad_() for t in exact]
    value, magnitude = plain(*exact, transposed), plain(*absolute, transposed)
    half = 2.0**-8  # the rounding of bfloat16
    assert_close(y, value.relu() if relu else value, magnitude, half)
    wanted = grad.double() * (y > 0) if relu else grad.double()
    gradients = torch.autograd.grad(value, exact, wanted)
    magnitudes = torch.autograd.grad(magnitude, absolute, wanted.abs())
    for number, (of, to, terms) in enumerate(zip(found, gradients, magnitudes, strict=True)):
        assert_close(of, to, terms, half if number == 0 or of.dtype == torch.bfloat16 else 0.0)


@needs_kernels
@kinds
def test_results_do_not_depend_on_threads_and_images_not_on_each_other(transposed: bool, relu: bool) -> None:
    x, weight, bias = operands((37, 32, 32, 5, 4), transposed)
    found = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            y = convolution._FORWARD(x, weight, bias, transposed, relu)
            found.append((y, *convolution._BACKWARD(y, y if relu else None, x, weight, transposed, True)))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))
    alone = [convolution._FORWARD(image, weight, bias, transposed, relu) for image in x.split(1)]
    assert torch.equal(found[0][0], torch.cat(alone))


@needs_kernels
@kinds
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_reach_what_they_should(transposed: bool, relu: bool, bad: float) -> None:
    x, weight, bias = operands((3, 32, 1, 6, 6), transposed)
    x[1, 0, 3, 2] = bad
    y = convolution._FORWARD(x, weight, bias, transposed, relu)
    expected = plain(x.double(), weight.bfloat16().double(), bias.double(), transposed)
    expected = expected.relu() if relu else expected
    assert torch.equal(y.isnan(), expected.isnan()) and torch.equal(y.isinf(), expected.isinf())
    grad = torch.ones_like(y)
    grad_x, _, grad_bias = convolution._BACKWARD(grad, y if relu else None, x, weight, transposed, True)
    passes = ~(y <= 0) if relu else torch.ones_like(y, dtype=torch.bool)  # torch lets NaN pass
    assert torch.equal(grad_bias, passes.sum((0, 2, 3)).float()) and grad_x.isfinite().all()


@needs_kernels
@kinds
def test_gradients_can_be_differentiated(transposed: bool, relu: bool) -> None:
    x, weight, bias = operands((2, 16, 3, 4, 4), transposed)
    found = []
    for kernels in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        if kernels:
            y = ConvolutionFunction.apply(*leaves, transposed, relu)
        else:
            y = plain(leaves[0], leaves[1].bfloat16(), leaves[2].bfloat16(), transposed)
            y = y.relu() if relu else y
        first = torch.autograd.grad(y.float().square().sum(), leaves, create_graph=True)
        penalty = sum(g.float().square().sum() for g in first)
        found.append(torch.autograd.grad(penalty, leaves))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05 * float(theirs.abs().max()))


@needs_kernels
@kinds
def test_opcheck(transposed: bool, relu: bool) -> None:
    x, weight, bias = operands((2, 16, 1, 3, 4), transposed)
    y = convolution._FORWARD(x, weight, bias, transposed, relu)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(convolution._FORWARD, (x, weight, bias, transposed, relu), test_utils=tests)
    for output, need_x in ((y, True), (None, False)):
        arguments = (y, output, x, weight, transposed, need_x)
        torch.library.opcheck(convolution._BACKWARD, arguments, test_utils=tests)


@needs_kernels
def test_operands_that_the_kernels_cannot_read_are_refused() -> None:
    x, weight, bias = operands((2, 16, 16, 3, 4), False)
    for arguments in (
        (x.float(), weight, bias),
        (x.contiguous(), weight, bias),
        (x, weight.double(), bias),
        (x, weight, bias.bfloat16()),
        (x, weight, bias[1:]),
        (x[:, :, 1:].contiguous(memory_format=torch.channels_last), weight, bias),
        (x, weight[:, :8], bias),
        (x, weight[:8], bias[:8]),
        (x, weight[..., 1:], bias),
    ):
        with pytest.raises(RuntimeError):
            convolution._FORWARD(*arguments, False, True)


@needs_kernels
def test_layers_run_by_the_kernels_under_autocast() -> None:
    """The layers' values are those of their own modules up to rounding; the gradients arrive in float32."""
    torch.manual_seed(0)
    layers = Sequential(
        torch.nn.Conv2d(1, 32, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 4, 2, 1),
        torch.nn.ReLU(inplace=True),
        ConvTranspose2d(32, 32, 4, 2, 1),
        torch.nn.ReLU(),
        ConvTranspose2d(32, 1, 4, 2, 1),
    )
    x = torch.rand(3, 1, 16, 24)
    plainly = torch.nn.Sequential(*layers)(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(convolves(layer, torch.empty(3, layer.in_channels, 8, 12)) for layer in layers[::2])
        y = layers(x)
    assert y.dtype == torch.bfloat16
    names = []
    node = y.grad_fn
    while node is not None:
        names.append(node.name())
        node = node.next_functions[0][0]
    assert names.count("ConvolutionFunctionBackward") == 4 and not any("Relu" in name for name in names)
    torch.testing.assert_close(y.float(), plainly, rtol=0.05, atol=0.01)
    parameters = list(layers.parameters())
    for ours, exact in zip(
        torch.autograd.grad(y.float().square().sum(), parameters),
        torch.autograd.grad(plainly.square().sum(), parameters),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, exact, rtol=0.1, atol=0.02 * float(exact.abs().max()))


@needs_kernels
def test_other_layers_and_modes_keep_torch_s_convolution() -> None:
    x = torch.rand(2, 16, 8, 8)
    layer = torch.nn.Conv2d(16, 32, 4, 2, 1)
    with_weight_of_a_subclass = torch.nn.Conv2d(16, 32, 4, 2, 1)
    with_weight_of_a_subclass.weight = torch.nn.Parameter(
        TwoTensor(*layer.weight.detach().expand(2, -1, -1, -1, -1))
    )
    others = (
        torch.nn.Conv2d(16, 32, 4, 2, 0),
        torch.nn.Conv2d(16, 32, 4, 2, 1, bias=False),
        torch.nn.Conv2d(16, 32, 3, 2, 1),
        torch.nn.Conv2d(16, 32, 4, 1, 1),
        torch.nn.Conv2d(16, 32, 4, 2, 1, groups=2),
        torch.nn.Conv2d(16, 32, 4, 2, 1, padding_mode="reflect"),
        torch.nn.Conv2d(16, 40, 4, 2, 1),
        torch.nn.ConvTranspose2d(16, 8, 4, 2, 1),
        torch.nn.ConvTranspose2d(16, 32, 4, 2, 1, output_padding=1),
        torch.nn.Conv2d(16, 32, 4, 2, 1).bfloat16(),
        with_weight_of_a_subclass,
    )
    assert not convolves(layer, x) and not serves(torch.empty(16, 0, 4, 4))
    with torch.autocast("cpu", torch.float16):
        assert not convolves(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolves(layer, x)
        assert not any(convolves(other, x) for other in others)
        for unfit in (x[:, :, 1:], x[0], x[:0], x.double(), x[:, :8], x.to("meta")):
            assert not convolves(layer, unfit)


@needs_kernels
@pytest.mark.parametrize("channels", [1, 16])
def test_the_result_may_be_overwritten_and_viewed(channels: int) -> None:
    """The result is no view of another tensor, and has the memory format of torch's layer."""
    x = torch.rand(2, 16, 6, 4)
    for of_x, of_weight in itertools.product((torch.contiguous_format, torch.channels_last), repeat=2):
        layer = ConvTranspose2d(16, channels, 4, 2, 1).to(memory_format=of_weight)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x.to(memory_format=of_x))
            theirs = torch.nn.ConvTranspose2d.forward(layer, x.to(memory_format=of_x))
        assert y.is_contiguous() == theirs.is_contiguous()
        y.mul_(2).sum().backward()


@needs_kernels
def test_images_of_one_channel_tell_their_memory_format() -> None:
    """Such images are contiguous and channels_last at once, up to a stride that nothing needs."""
    layer = torch.nn.Conv2d(1, 16, 4, 2, 1)
    x = torch.rand(2, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        for image in (x, x.to(memory_format=torch.channels_last)):
            assert Sequential(layer, torch.nn.ReLU())(image).stride() == layer(image).stride()


@needs_kernels
@pytest.mark.parametrize("autocast", [False, True])
def test_a_parametrization_is_computed_once(autocast: bool) -> None:
    """Spectral normalization takes a step of its iteration at each access to the weight."""
    layer = ConvTranspose2d(16, 16, 4, 2, 1)
    computed = torch.nn.utils.parametrizations.spectral_norm(layer).parametrizations.weight
    calls: list[Any] = []
    computed.register_forward_hook(lambda *_: calls.append(_))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        layer(torch.rand(2, 16, 4, 4)).sum().backward()
    assert len(calls) == 1 and computed.original.grad is not None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its memory as Linux does")
@needs_kernels
def test_too_large_an_image_is_an_error_and_no_crash() -> None:
    process = fresh_process(
        "-c",
        "import resource, torch\n"
        "from betavae_fast.ops import convolution\n"
        "torch.set_num_threads(1)\n"
        "small, large = (torch.zeros(1, 1, n, n, dtype=torch.bfloat16) for n in (4, 4096))\n"
        "operands = torch.zeros(16, 1, 4, 4), torch.zeros(16), False, False\n"
        "assert convolution.serves(operands[0])\n"
        "convolution._FORWARD(small, *operands)\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (200 << 20)\n"  # the result takes 128 MiB, and each buffer, too
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try:\n    convolution._FORWARD(large, *operands)\n"
        "except (MemoryError, RuntimeError) as error:\n    print('refused', error)\n"
        "print(convolution._FORWARD(small, *operands).shape)\n",
    )  # fmt: skip
    assert process.returncode == 0 and process.stdout.startswith("refused"), process.stdout + process.stderr


@pytest.mark.parametrize("capability", ["avx512_bf16", "avx512"])
def test_other_instruction_sets(capability: str) -> None:
    """The tests of this file pass with the kernels of avx512_bf16, and are skipped where there are none."""
    require_cpu_capability(capability)
    process = fresh_process(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not other_instruction_sets",
        BETAVAE_FAST_CPU_CAPABILITY=capability,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    assert ("passed" in process.stdout) == (capability == "avx512_bf16")


@needs_kernels
def test_wide_layers_are_left_to_torch() -> None:
    assert serves(torch.empty(256, 64, 4, 4)) and not serves(torch.empty(512, 64, 4, 4))

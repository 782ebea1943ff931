"""The transposed convolution, which must have the arguments, parameters and results of torch's own."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from betavae_fast.nn.convolutions import ConvTranspose2d

# The case with a separate path for a single output channel.
DOUBLING = {"kernel_size": 4, "stride": 2, "padding": 1}
CHANNELS = [(32, 1), (3, 1), (1, 1), (5, 3), (1, 4)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def both(*arguments: Any, **options: Any) -> tuple[ConvTranspose2d, nn.ConvTranspose2d]:
    """Our layer and torch's layer with the same parameters."""
    ours, theirs = ConvTranspose2d(*arguments, **options), nn.ConvTranspose2d(*arguments, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def run(layer: nn.Module, x: Tensor, *more: Any, grad: Tensor | None = None) -> dict[str, Tensor | None]:
    """The output, and the gradients of all tensors that require one."""
    layer.zero_grad()
    x = x.detach().requires_grad_(x.is_floating_point())
    y = layer(x, *more)
    y.backward(torch.ones(()).to(y.dtype).expand_as(y) if grad is None else grad)
    return {"y": y.detach(), "x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}


def assert_same(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None], rtol: float = 1e-5) -> None:
    """Assert equality up to the rounding of the terms, which bounds the error of a sum in another order, however small
    the sum itself.
    """
    assert ours.keys() == theirs.keys()
    for name, a in ours.items():
        b = theirs[name]
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            atol = rtol * max(10.0, float(b.abs().max())) if b.numel() else 0.0
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("batch", [0, 1, 2, 7])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 3), (2, 2), (2, 6), (8, 8)], ids=str)
def test_values_and_gradients_are_torch_s(
    channels: tuple[int, int], batch: int, size: tuple[int, int]
) -> None:
    ours, theirs = both(*channels, **DOUBLING)
    x = torch.randn(batch, channels[0], *size)
    y = theirs(x)
    for grad in (None, torch.randn(y.shape), torch.randn(y.shape[::-1]).permute(3, 2, 1, 0)):
        assert_same(run(ours, x, grad=grad), run(theirs, x, grad=grad))


@pytest.mark.parametrize("threads_count, onednn", [(1, True), (2, True), (1, False)])
def test_values_do_not_depend_on_which_convolution_torch_picks(
    threads_count: int, onednn: bool, threads: None
) -> None:
    """Without oneDNN the pixels have another memory format, which the doubling must not mistake for its own."""
    torch.set_num_threads(threads_count)
    with torch.backends.mkldnn.flags(enabled=onednn):
        for channels, batch in itertools.product(CHANNELS, (1, 3)):
            ours, theirs = both(*channels, **DOUBLING)
            x = torch.randn(batch, channels[0], 6, 4)
            assert_same(run(ours, x), run(theirs, x))


@pytest.mark.parametrize("channels", [(3, 1), (4, 6)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 4},
        {"kernel_size": 4, "stride": 2},
        {"kernel_size": 4, "stride": (2, 1), "padding": (1, 2)},
        {"kernel_size": (4, 3), "stride": 2, "padding": 1},
        {"kernel_size": (1, 2), "stride": 3},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": 3, "stride": 2, "output_padding": (1, 0)},
        {"kernel_size": 3, "dilation": 2, "padding": 2},
        {"kernel_size": 4, "stride": 2, "padding": 1, "dilation": (1, 2)},
        {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
        {"kernel_size": 2, "stride": 2, "bias": False},
    ],
    ids=str,
)
def test_every_argument_does_what_it_does_in_torch(
    channels: tuple[int, int], options: dict[str, Any]
) -> None:
    ours, theirs = both(*channels, **options)
    x = torch.randn(3, channels[0], 5, 4)
    assert_same(run(ours, x), run(theirs, x))
    assert str(ours) == str(theirs)


@pytest.mark.parametrize("groups", [2, 4])
def test_groups(groups: int) -> None:
    ours, theirs = both(4, 4, groups=groups, **DOUBLING)
    x = torch.randn(3, 4, 5, 4)
    assert_same(run(ours, x), run(theirs, x))


@pytest.mark.parametrize("channels", [(3, 1), (3, 2)], ids=str)
def test_an_output_size_is_heeded_or_refused_as_torch_does(channels: tuple[int, int]) -> None:
    ours, theirs = both(*channels, **DOUBLING)
    x = torch.randn(2, 3, 5, 4)
    for size in ([10, 8], [11, 9], [10, 9]):
        assert_same(run(ours, x, size), run(theirs, x, size))
        assert ours(x, output_size=size).shape[2:] == tuple(size)
    with pytest.raises(ValueError, match="output size"):
        ours(x, [12, 8])


@pytest.mark.parametrize("channels", [(6, 1), (6, 4)], ids=str)
@pytest.mark.parametrize(
    "layout", ["channels_last", "sliced", "transposed", "expanded", "unbatched", "offset"]
)
def test_inputs_may_lie_anyhow_in_memory(channels: tuple[int, int], layout: str) -> None:
    x = torch.randn(3, 6, 6, 4)
    laid = {
        "channels_last": lambda: x.to(memory_format=torch.channels_last),
        "sliced": lambda: torch.cat((x, x * torch.nan), 1)[:, :6],
        "transposed": lambda: x.transpose(0, 3).contiguous().transpose(0, 3),
        "expanded": lambda: x[:1].expand_as(x),
        "unbatched": lambda: x[0],
        "offset": lambda: torch.cat((torch.zeros(1), x.flatten()))[1:].view(x.shape),
    }[layout]()
    ours, theirs = both(*channels, **DOUBLING)
    assert_same(run(ours, laid), run(theirs, laid))
    for layer in (ours, theirs):
        layer.to(memory_format=torch.channels_last)
    assert_same(run(ours, laid), run(theirs, laid))
    if layout == "channels_last":
        assert ours(laid).stride() == theirs(laid).stride() or channels[1] == 1


@pytest.mark.parametrize("channels", [(3, 1), (3, 2)], ids=str)
@pytest.mark.parametrize("needs", [n for n in itertools.product((False, True), repeat=3) if any(n)], ids=str)
def test_only_what_is_needed_gets_a_gradient(channels: tuple[int, int], needs: tuple[bool, ...]) -> None:
    """The test freezes input, weight and bias in every combination."""
    found = []
    for layer in both(*channels, **DOUBLING):
        x = torch.linspace(-1, 1, 2 * 3 * 4 * 6).view(2, 3, 4, 6)
        for leaf, need in zip((x, layer.weight, layer.bias), needs, strict=True):
            leaf.requires_grad_(need)
        y = layer(x)
        y.square().sum().backward()
        found.append({"y": y.detach(), "x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad})
        assert [found[-1][name] is not None for name in ("x", "weight", "bias")] == list(needs)
    assert_same(*found)


@pytest.mark.parametrize("channels", [(2, 1), (2, 2)], ids=str)
def test_no_gradient_is_recorded_where_none_is_wanted(channels: tuple[int, int]) -> None:
    layer, _ = both(*channels, **DOUBLING)
    x = torch.randn(2, 2, 4, 4)
    with torch.no_grad():
        assert not layer(x).requires_grad
    with torch.inference_mode():
        assert layer(x).is_inference()
    assert not layer.requires_grad_(False)(x).requires_grad


@pytest.mark.parametrize("channels", [(2, 1), (1, 1), (2, 2)], ids=str)
def test_second_derivatives_are_torch_s(channels: tuple[int, int]) -> None:
    """The second derivatives of a gradient penalty are taken for every pair of input, weight and bias."""
    ours, theirs = both(*channels, **DOUBLING)
    x = torch.randn(2, channels[0], 2, 4)
    found = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        leaves = (leaf, layer.weight, layer.bias)
        y = layer(leaf)
        grads = torch.autograd.grad((y.square() * y).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((g.square()).sum() for g in grads), leaves)
        found.append(dict(zip(("x", "weight", "bias"), second, strict=True)))
    assert_same(*found, rtol=1e-4)


@pytest.mark.parametrize("channels", [(2, 1), (2, 2)], ids=str)
def test_forward_mode_derivatives_are_torch_s(channels: tuple[int, int]) -> None:
    ours, theirs = both(*channels, **DOUBLING)
    at = torch.randn(2, 2, 4, 6), ours.weight.detach(), ours.bias.detach()
    for chosen in (c for n in (1, 2, 3) for c in itertools.combinations(range(3), n)):
        tangents = tuple(torch.randn_like(at[i]) for i in chosen)

        def function(*some: Tensor, layer: nn.Module, chosen: tuple[int, ...] = chosen) -> Tensor:
            x, weight, bias = (some[chosen.index(i)] if i in chosen else value for i, value in enumerate(at))
            return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

        point = tuple(at[i] for i in chosen)
        a, b = (
            torch.func.jvp(lambda *s, layer=layer: function(*s, layer=layer), point, tangents)
            for layer in (ours, theirs)
        )
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(at[0], torch.ones_like(at[0]))
        a, b = (torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent for layer in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [(3, 1), (1, 1), (3, 2)], ids=str)
def test_vmap_over_inputs_and_over_parameters(channels: tuple[int, int]) -> None:
    """An ensemble of decoders runs by vmap over parameters."""
    ours, theirs = both(*channels, **DOUBLING)
    x = torch.randn(4, 2, channels[0], 6, 4)
    for function in (lambda layer: layer, lambda layer: torch.func.grad(lambda y: layer(y).square().sum())):
        for images in (x, x[:, 0]):
            a, b = (torch.func.vmap(function(layer))(images) for layer in (ours, theirs))
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    stacked = {name: torch.randn(4, *p.shape) for name, p in ours.named_parameters()}
    for of_x in (0, None):
        images = x if of_x == 0 else x[0]
        a, b = (
            torch.func.vmap(lambda p, y, layer=layer: torch.func.functional_call(layer, p, (y,)), (0, of_x))(
                stacked, images
            )
            for layer in (ours, theirs)
        )
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    a, b = (
        torch.func.vmap(lambda p, layer=layer: torch.func.functional_call(layer, {"bias": p}, (x[0],)))(
            stacked["bias"]
        )
        for layer in (ours, theirs)
    )
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def assert_errors(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None], exact: Any) -> None:
    """Assert that our errors are no larger than torch's, except by luck."""
    for name, a in ours.items():
        b, e = theirs[name], exact[name]
        assert a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape, name
        error = lambda x, e=e: float((x.double() - e).norm() / e.norm())
        assert error(a) <= 1.5 * error(b) + 1e-7, name


@pytest.mark.parametrize("channels", [(3, 1), (3, 2)], ids=str)
def test_float64_is_torch_s_to_the_bit(channels: tuple[int, int]) -> None:
    ours, theirs = (layer.double() for layer in both(*channels, **DOUBLING))
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    assert_same(run(ours, x), run(theirs, x), rtol=0)


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("size", [(4, 6), (4, 5), (2, 2)], ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_exact_as_torch_s(
    channels: tuple[int, int], size: tuple[int, int], autocast: bool
) -> None:
    ours, theirs = both(*channels, **DOUBLING)
    x, grad = torch.randn(64, channels[0], *size), torch.randn(64, channels[1], *(2 * n for n in size))
    grad = grad.bfloat16()
    exact = run(copy.deepcopy(theirs).double(), x.double(), grad=grad.double())
    if not autocast:
        ours, theirs, x = ours.bfloat16(), theirs.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, expected = (run(layer, x, grad=grad) for layer in (ours, theirs))
    assert found["y"].dtype == torch.bfloat16
    assert_errors(found, expected, exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
def test_mixed_dtypes_are_refused(dtype: torch.dtype) -> None:
    for channels in ((3, 1), (3, 2)):
        with pytest.raises(RuntimeError, match="type"):
            ConvTranspose2d(*channels, **DOUBLING).to(dtype)(torch.zeros(2, 3, 4, 6))
        layer = ConvTranspose2d(*channels, **DOUBLING)
        layer.bias = nn.Parameter(layer.bias.detach().to(dtype))
        with pytest.raises(RuntimeError, match="type"):
            layer(torch.zeros(2, 3, 4, 6))


def test_state_and_copies_go_both_ways() -> None:
    for channels in ((3, 1), (3, 2)):
        ours, theirs = ConvTranspose2d(*channels, **DOUBLING), nn.ConvTranspose2d(*channels, **DOUBLING)
        x = torch.randn(2, 3, 4, 6)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        ours.load_state_dict(theirs.state_dict())
        assert_same(run(ours, x), run(theirs, x))
        nn.init.normal_(ours.weight)
        theirs.load_state_dict(ours.state_dict())
        assert_same(run(ours, x), run(theirs, x))
        twin = copy.deepcopy(ours)
        before = run(ours, x)
        nn.init.zeros_(twin.weight)
        assert_same(run(ours, x), before, rtol=0)
        torch.manual_seed(0)
        first = ConvTranspose2d(*channels, **DOUBLING).state_dict()
        torch.manual_seed(0)
        second = nn.ConvTranspose2d(*channels, **DOUBLING).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first), "different initial values"


def test_wrong_inputs_are_refused() -> None:
    layer = ConvTranspose2d(3, 1, **DOUBLING)
    for shape, because in (((2, 4, 5, 5), "channels"), ((2, 3, 0, 5), "input shape"), ((2, 3), "3D|4D")):
        with pytest.raises((RuntimeError, ValueError), match=because):
            layer(torch.zeros(shape))


def test_meta_and_fake_tensors_have_torch_s_shapes() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    for channels in ((3, 1), (1, 1), (3, 2)):
        with torch.device("meta"):
            assert ConvTranspose2d(*channels, **DOUBLING)(torch.empty(2, channels[0], 4, 6)).is_meta
        with FakeTensorMode():
            ours, theirs = both(*channels, **DOUBLING)
            y = ours(torch.randn(2, channels[0], 4, 6))
            assert y.shape == theirs(torch.randn(2, channels[0], 4, 6)).shape
            y.sum().backward()
            assert ours.weight.grad.shape == ours.weight.shape


@pytest.mark.filterwarnings("ignore")  # torch warns that torch.jit is deprecated.
def test_traced_and_exported_it_is_still_the_same() -> None:
    x = torch.randn(2, 3, 4, 6)
    for channels in ((3, 1), (3, 2)):
        ours, theirs = both(*channels, **DOUBLING)
        for layer in (torch.jit.trace(ours, x), torch.export.export(ours, (x,)).module()):
            torch.testing.assert_close(layer(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_compiled_in_one_graph() -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 3, 4, 6)
    for channels in ((3, 1), (3, 2)):
        ours, theirs = both(*channels, **DOUBLING)
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
        a = run(compiled, x)
        a = {name.removeprefix("_orig_mod."): value for name, value in a.items()}
        assert_same(a, run(theirs, x))
    torch._dynamo.reset()

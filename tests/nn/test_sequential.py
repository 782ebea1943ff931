"""Layers that run together with their ReLUs, in plain torch on a CPU, and on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from betavae_fast import BetaVAE
from betavae_fast.bench.footprint import footprint
from betavae_fast.bench.timing import Task
from betavae_fast.choices import Architecture
from betavae_fast.nn import sequential
from betavae_fast.nn.architectures import build
from betavae_fast.nn.convolutions import ConvTranspose2d
from betavae_fast.nn.sequential import Sequential
from betavae_fast.ops.casting import CastAll
from tests.cuda_graphs import captured

ARCHITECTURES = pytest.mark.parametrize("architecture", get_args(Architecture))
IMAGE = (3, 16, 16)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make layers run together as on a GPU, by the plain torch of the operators."""
    monkeypatch.setattr(sequential, "fuses", lambda x: True)


class Operators(TorchDispatchMode):
    """A mode that records the operators called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.names.append(operator.name().split("::")[1].split(".")[0])
        return operator(*arguments, **(keywords or {}))


def nets(architecture: Architecture, dtype: torch.dtype = torch.float32) -> tuple[nn.Sequential, ...]:
    """The encoder and the decoder of an architecture."""
    return tuple(net.to(dtype) for net in build(architecture, IMAGE, 4))


def inputs(batch: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The inputs of the encoder and the decoder."""
    return torch.rand(batch, *IMAGE, dtype=dtype), torch.randn(batch, 4, dtype=dtype)


def plain(net: nn.Sequential) -> nn.Sequential:
    """Make a copy from torch's own layers with the same parameters."""
    layers = copy.deepcopy(net)
    for layer in layers:
        if type(layer) is ConvTranspose2d:
            layer.__class__ = nn.ConvTranspose2d
    layers.__class__ = nn.Sequential
    return layers


def run(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The output and the gradients."""
    x = x.detach().requires_grad_()
    y = net(x)
    loss = (y * torch.linspace(-1, 1, y.numel(), device=y.device, dtype=y.dtype).view(y.shape)).sum()
    return [y.detach(), *torch.autograd.grad(loss, (x, *net.parameters()))]


def assert_close(found: list[Tensor], expected: list[Tensor], rtol: float) -> None:
    """Assert equality up to the rounding of the terms, which sums in another order may differ by."""
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        atol = rtol * float(b.abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def assert_errors(found: list[Tensor], expected: list[Tensor], exact: list[Tensor]) -> None:
    """Assert that our errors are no larger than those of torch's layers, except by luck: a number near 0 may pass a ReLU
    or not.
    """
    for a, b, e in zip(found, expected, exact, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        error = lambda x, e=e: float((x.double() - e).norm() / e.norm())
        assert error(a) <= 1.5 * error(b) + 1e-7


@ARCHITECTURES
@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_values_and_gradients_are_those_of_torch_s_layers(
    architecture: Architecture, batch: int, layout: torch.memory_format, together: None
) -> None:
    for net, x in zip(nets(architecture, torch.float64), inputs(batch, torch.float64), strict=True):
        net.to(memory_format=layout)
        assert_close(run(net, x), run(plain(net), x), rtol=1e-12)


@ARCHITECTURES
def test_a_layer_and_its_relu_are_one(architecture: Architecture, together: None) -> None:
    """Neither a ReLU, forward or backward, nor the sum of a bias's gradient has an operator of its own."""
    for net, x in zip(nets(architecture), inputs(2), strict=True):
        layers = list(net)
        pairs = [a for a, b in pairwise(layers) if type(b) is nn.ReLU]
        linear = sum(isinstance(layer, nn.Linear) for layer in pairs)
        with Operators() as called:
            net(x).sum().backward()
        count = called.names.count
        assert (count("_addmm_activation"), count("bias_relu_")) == (linear, len(pairs) - linear)
        assert count("bias_relu_backward") == len(pairs)
        assert not {"relu", "relu_", "threshold_backward"} & set(called.names)
        assert count("addmm") + count("convolution") + linear == len(
            [layer for layer in layers if list(layer.parameters())]
        )


@ARCHITECTURES
def test_a_cpu_does_what_it_did(architecture: Architecture) -> None:
    for net, x in zip(nets(architecture), inputs(3), strict=True):
        found = run(net, x)
        net.__class__ = nn.Sequential
        assert all(torch.equal(a, b) for a, b in zip(found, run(net, x), strict=True))


def test_names_and_parts_are_those_of_torch_s_sequential() -> None:
    encoder, _ = nets("burgess")
    assert str(encoder) == str(plain(encoder)) and isinstance(encoder, nn.Sequential)
    assert list(encoder.state_dict()) == list(plain(encoder).state_dict())
    assert list(encoder.state_dict())[:2] == ["conv1.weight", "conv1.bias"]
    assert type(encoder[:3]) is Sequential


def _double(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda module: module.register_forward_hook(_double),
    "forward pre": lambda module: module.register_forward_pre_hook(lambda module, inputs: 2 * inputs[0]),
    "backward": lambda module: module.register_full_backward_hook(lambda module, grads, _: (2 * grads[0],)),
    "backward pre": lambda module: module.register_full_backward_pre_hook(
        lambda module, grads: (2 * grads[0],)
    ),
    "forward of its own": lambda module: setattr(
        module, "forward", lambda x, forward=module.forward: 2 * forward(x)
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("kind", ["conv", "deconv", "linear"])
def test_a_hook_on_a_layer_or_its_relu_is_called(kind: str, where: int, hook: str, together: None) -> None:
    layer, x = {
        "conv": (nn.Conv2d(2, 3, 3), torch.randn(2, 2, 5, 5)),
        "deconv": (ConvTranspose2d(2, 3, 3), torch.randn(2, 2, 5, 5)),
        "linear": (nn.Linear(4, 3), torch.randn(2, 4)),
    }[kind]
    net = Sequential(layer, nn.ReLU())
    unhooked = run(net, x)
    HOOKS[hook](net[where])
    found = run(net, x)
    net.__class__ = nn.Sequential
    expected = run(net, x)
    assert_close(found, expected, rtol=1e-5)
    assert any(not torch.allclose(a, b) for a, b in zip(found, unhooked, strict=True))


def test_a_hook_on_all_modules_sees_each(together: None) -> None:
    seen: list[str] = []
    handle = register_module_forward_hook(lambda module, inputs, output: seen.append(type(module).__name__))
    try:
        Sequential(nn.Linear(4, 3), nn.ReLU())(torch.randn(2, 4))
    finally:
        handle.remove()
    assert seen == ["Linear", "ReLU", "Sequential"]


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class _Kind(Tensor):
    """A tensor subclass, which torch lets define its own operations."""


def _parametrized() -> nn.Module:
    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "weight", _Doubled())
    return layer


def _with_weight_of_a_kind() -> nn.Module:
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(_Kind))
    return layer


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (lambda: (nn.Linear(4, 3, bias=False), nn.ReLU()), (2, 4)),
        (lambda: (nn.Conv2d(4, 3, 1, bias=False), nn.ReLU()), (2, 4, 1, 1)),
        (lambda: (nn.Linear(4, 3), nn.ReLU()), (2, 5, 4)),
        (lambda: (nn.Linear(4, 3), nn.ReLU()), (4,)),
        (lambda: (nn.Conv2d(4, 3, 2), nn.ReLU()), (4, 3, 3)),
        (lambda: (nn.Linear(4, 3), nn.LeakyReLU()), (2, 4)),
        (lambda: (nn.Conv1d(4, 3, 1), nn.ReLU()), (2, 4, 5)),
        (lambda: (nn.ReLU(), nn.Linear(4, 3)), (2, 4)),
        (lambda: (_parametrized(), nn.ReLU()), (2, 4)),
        (lambda: (_with_weight_of_a_kind(), nn.ReLU()), (2, 4)),
    ],
)
def test_what_is_no_such_pair_runs_layer_by_layer(
    layers: Callable[[], tuple[nn.Module, ...]], shape: tuple[int, ...], together: None
) -> None:
    net, x = Sequential(*layers()), torch.randn(shape)
    with Operators() as called:
        y = net(x)
    assert torch.equal(y, nn.Sequential.forward(net, x))
    assert not {"_addmm_activation", "bias_relu_"} & set(called.names)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding="valid", dilation=2, groups=2),
        nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        ConvTranspose2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2)),
    ],
    ids=str,
)
def test_every_argument_of_a_convolution_is_heeded(layer: nn.Module, together: None) -> None:
    net, x = Sequential(layer, nn.ReLU()).double(), torch.randn(2, 4, 7, 6, dtype=torch.float64)
    with Operators() as called:
        net(x)
    assert "bias_relu_" in called.names
    assert_close(run(net, x), run(plain(net), x), rtol=1e-12)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_may_stand_in_several_places(autocast: bool, together: None) -> None:
    layer, relu, x = nn.Linear(3, 3), nn.ReLU(), torch.randn(5, 3)
    net = Sequential(layer, relu, layer, nn.Tanh(), layer, relu)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = run(net, x)
        net.__class__ = nn.Sequential
        assert_close(found, run(net, x), rtol=2e-2 if autocast else 1e-6)


def test_mismatched_dtypes_are_refused_as_torch_does(together: None) -> None:
    for layer, x in ((nn.Linear(4, 3), torch.zeros(2, 4)), (nn.Conv2d(4, 3, 1), torch.zeros(2, 4, 1, 1))):
        with pytest.raises(RuntimeError, match=r"dtype|type"):
            Sequential(layer, nn.ReLU())(x.double())


@ARCHITECTURES
def test_under_autocast_errors_are_those_of_torch_s_layers(
    architecture: Architecture, together: None
) -> None:
    for net, x in zip(nets(architecture), inputs(128), strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = run(net, x), run(plain(net), x)
        assert found[0].dtype == torch.bfloat16
        assert_errors(found, expected, run(plain(net).double(), x.double()))


@pytest.mark.parametrize("architecture", ["burgess", "locatello"])
def test_under_autocast_all_hidden_weights_are_cast_at_once(
    architecture: Architecture, together: None
) -> None:
    """Images and the last layer's weight, bias and gradients are the rest."""
    for net, x in zip(nets(architecture), inputs(2), strict=True):
        with Operators() as called, torch.autocast("cpu", torch.bfloat16):
            net(x).float().sum().backward()
        assert called.names.count("_foreach_copy_") == 2
        assert called.names.count("_to_copy") - called.names.count("_addmm_activation") <= 7


def test_a_product_is_of_the_dtype_that_autocast_wants(
    together: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU autocast does not know the product that ends in a ReLU, as it does on a CPU."""
    taken = []

    def apply(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        taken.append((x.dtype, weight.dtype, bias.dtype))
        return x

    monkeypatch.setattr(sequential, "LinearReluFunction", SimpleNamespace(apply=apply))
    net, x = Sequential(nn.Linear(3, 3), nn.ReLU()), torch.zeros(2, 3)
    net(x)
    with torch.autocast("cpu", torch.bfloat16):
        net(x)
        net.double()(x.double())
    narrow, single, double = torch.bfloat16, torch.float32, torch.float64
    assert taken == [(single,) * 3, (narrow, narrow, single), (double,) * 3]


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_parameters_get_no_gradient(frozen: str, together: None) -> None:
    for net, x in zip(nets("burgess"), inputs(2), strict=True):
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not name.endswith(frozen))
        net(x).sum().backward()
        assert all((p.grad is not None) == (not n.endswith(frozen)) for n, p in net.named_parameters())


def test_no_gradient_is_recorded_where_none_is_wanted(together: None) -> None:
    for net, x in zip(nets("burgess"), inputs(2), strict=True):
        with torch.no_grad():
            assert not net(x).requires_grad
        with torch.inference_mode():
            assert net(x).is_inference()


@ARCHITECTURES
def test_a_penalty_on_the_gradient_has_torch_s_gradient(architecture: Architecture, together: None) -> None:
    for net, x in zip(nets(architecture, torch.float64), inputs(2, torch.float64), strict=True):
        found = []
        for layers in (net, plain(net)):
            leaf = x.clone().requires_grad_()
            (grad,) = torch.autograd.grad(layers(leaf).square().sum(), leaf, create_graph=True)
            weights = [p for name, p in layers.named_parameters() if name.endswith("weight")]
            found.append(list(torch.autograd.grad(grad.square().sum(), weights)))
        assert_close(*found, rtol=1e-9)


# Programs that look into the layers and use torch's own.


@pytest.fixture
def seemingly_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make CPU tensors claim to be on CUDA, where running layers together would be a mistake."""

    def refuse(*_: Any) -> None:
        raise AssertionError("run together")

    monkeypatch.setattr(Tensor, "is_cuda", property(lambda x: True))
    monkeypatch.setattr(sequential, "triton_serves", lambda device: True)
    monkeypatch.setattr(sequential, "_run", refuse)


def _forward_ad(net: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        return torch.autograd.forward_ad.unpack_dual(net(dual)).primal


LOOKS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "torch.func.grad": lambda net, x: torch.func.vjp(net, x)[0],
    "torch.func.jvp": lambda net, x: torch.func.jvp(net, (x,), (x,))[0],
    "torch.func.vmap": lambda net, x: torch.func.vmap(lambda row: net(row[None])[0])(x),
    "forward mode": _forward_ad,
    "torch.compile": lambda net, x: torch.compile(net, fullgraph=True, backend="aot_eager")(x),
    "torch.export": lambda net, x: torch.export.export(net, (x,)).module()(x),
    "torch.jit.trace": lambda net, x: torch.jit.trace(net, (x,), check_trace=False)(x),
    "torch.jit.script": lambda net, x: torch.jit.script(net)(x),
    "torch.fx": lambda net, x: torch.fx.symbolic_trace(net)(x),
    "subclass": lambda net, x: net(x.as_subclass(_Kind)).as_subclass(Tensor),
}


@pytest.mark.filterwarnings("ignore")  # torch warns that torch.jit is deprecated.
@pytest.mark.parametrize("look", LOOKS)
def test_who_looks_into_the_layers_finds_torch_s(look: str, seemingly_on_a_gpu: None) -> None:
    encoder, _ = nets("burgess")
    x, _ = inputs(2)
    with pytest.raises(AssertionError, match="run together"):
        encoder(x)
    torch._dynamo.reset()
    try:
        torch.testing.assert_close(LOOKS[look](encoder, x), nn.Sequential.forward(encoder, x))
    finally:
        torch._dynamo.reset()


def test_what_is_compiled_finds_torch_s_layers(
    seemingly_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile reads the device of tensors itself, so it must not be given tensors with a false device, like the
    other programs.
    """
    x = torch.zeros(2, 4)
    assert sequential.fuses(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not sequential.fuses(x)


# Tests on a GPU.


def on_gpu(test: Any) -> Any:
    skipped = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.mark.gpu(skipped(test))


@pytest.fixture
def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute products of float32 in float32 and convolutions in one order."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@on_gpu
@ARCHITECTURES
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("precision", ["float64", "float32", "float16", "bfloat16", "autocast"])
def test_on_a_gpu_errors_are_those_of_torch_s_layers(
    architecture: Architecture, layout: torch.memory_format, precision: str, exactly: None
) -> None:
    dtype = torch.float32 if precision == "autocast" else getattr(torch, precision)
    for net, x in zip(nets(architecture, dtype), inputs(128, dtype), strict=True):
        net, x = net.to("cuda", memory_format=layout), x.cuda()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "autocast"):
            found, expected = run(net, x), run(plain(net), x)
            with Operators() as called:
                net(x)
        linear = any(type(a) is nn.Linear and type(b) is nn.ReLU for a, b in pairwise(net))
        assert ("_addmm_activation" in called.names) == linear
        exact = run(plain(net).double(), x.double())
        if precision == "float64":
            assert_close(found, exact, rtol=1e-12)
        else:
            assert_errors(found, expected, exact)


@on_gpu
@ARCHITECTURES
@pytest.mark.parametrize("autocast", [False, True])
def test_on_a_gpu_a_graph_replays_the_bits_of_a_run(
    architecture: Architecture, autocast: bool, exactly: None
) -> None:
    """Each replay gets new numbers. A second run without a graph has the same bits, too."""
    for net, x in zip(nets(architecture), inputs(256), strict=True):
        net, x = net.to("cuda", memory_format=torch.channels_last), x.cuda()

        def step(net: nn.Module = net, x: Tensor = x) -> list[Tensor]:
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast, cache_enabled=False):
                return run(net, x)

        graph, replayed = captured(step)
        for _ in range(3):
            x.copy_(torch.randn_like(x))
            graph.replay()
            for _ in range(2):
                assert all(torch.equal(a, b) for a, b in zip(replayed, step(), strict=True))


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_gpu_the_launches_are_as_few_as_they_are_counted(dtype: torch.dtype) -> None:
    """Counts of operators stand for launches elsewhere: these are those of which it is not plain."""
    ops = torch.ops.betavae_fast
    image = torch.randn(64, 32, 32, 32, dtype=dtype, device="cuda").to(memory_format=torch.channels_last)
    few, many = (torch.randn(rows, 256, dtype=dtype, device="cuda") for rows in (64, 4096))
    weight, bias = torch.randn(256, 256, dtype=dtype, device="cuda"), torch.randn(256, device="cuda")
    counter = ops.bias_relu_(image, bias[:32])
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "bias and ReLU": (1, lambda: ops.bias_relu_(image, bias[:32])),
        "backward": (1, lambda: ops.bias_relu_backward(image, image, counter, torch.float32)),
        "backward, few rows": (1, lambda: ops.bias_relu_backward(few, few, None, torch.float32)),
        "backward, many rows": (2, lambda: ops.bias_relu_backward(many, many, None, torch.float32)),
        "linear": (1, lambda: torch._addmm_activation(bias.to(dtype), few, weight.t())),
        "casts": (1, lambda: CastAll.apply(torch.float16, weight, few, many)),
    }
    if dtype == torch.bfloat16:
        calls["linear"] = (2, calls["linear"][1])  # one casts the bias
    for name, (launches, call) in calls.items():
        found = footprint(Task(name, lambda _, call=call: call()), torch.device("cuda")).launches
        assert found in (launches, None), name


@on_gpu
def test_on_a_gpu_a_model_learns_what_it_learns_on_a_cpu(exactly: None) -> None:
    images = torch.rand(64, 1, 64, 64)
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        vae = BetaVAE().to(device)
        optimizer = torch.optim.Adam(vae.parameters(), 1e-3)
        for _ in range(10):
            optimizer.zero_grad()
            out = vae(images.to(device), seed=1)
            loss = nn.functional.binary_cross_entropy_with_logits(out.decoded, images.to(device))
            (loss + 1e-4 * out.kl.sum()).backward()
            optimizer.step()
        losses.append(float(loss))
    assert losses[0] < 0.7
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=0)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_gpu_nan_is_not_cut_off_by_the_product_s_relu(dtype: torch.dtype) -> None:
    """A diverged run must not look as if its layers had become zero."""
    net = Sequential(nn.Linear(16, 32), nn.ReLU()).to("cuda", dtype)
    x = torch.full((64, 16), torch.nan, device="cuda", dtype=dtype)
    assert net(x).isnan().all()

"""The rules for initial weights: their bounds, and what they keep from layer to layer."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from betavae_fast.choices import Architecture
from betavae_fast.nn import BetaVAE, initialize

ARCHITECTURES: tuple[Architecture, ...] = ("burgess", "locatello", "mlp")


def drawn(layer: nn.Module, rule: str, *after: nn.Module) -> float:
    """The largest weight that the rule draws for ``layer``."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(float("nan"))
    initialize(nn.Sequential(layer, *after), rule)
    return float(layer.weight.detach().abs().max())


@pytest.mark.parametrize(
    "rule, bound", [("torch", 1 / sqrt(1024)), ("glorot", sqrt(6 / 1536)), ("kaiming", sqrt(6 / 1024))]
)
def test_bounds_of_a_linear_layer(rule, bound):
    layer = nn.Linear(1024, 512)
    assert drawn(layer, rule, nn.ReLU()) == pytest.approx(bound, rel=1e-4)
    assert bool((layer.bias == 0).all()) == (rule != "torch")
    assert layer.bias.isfinite().all()


@pytest.mark.parametrize("after", [(), (nn.Tanh(),), (nn.Tanh(), nn.ReLU())])
def test_kaiming_is_glorot_where_no_relu_follows(after):
    assert drawn(nn.Linear(1024, 512), "kaiming", *after) == pytest.approx(sqrt(6 / 1536), rel=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    "kind",
    [
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    ],
)
def test_kaimings_fans_are_what_an_output_sums_over_and_what_an_input_adds_to(kind, groups):
    """Ones through a layer of ones count the inputs of each output, and their gradient the outputs of each input."""
    layer = kind(64, 32, kernel_size=4, stride=2, padding=1, bias=False, groups=groups)
    nn.init.ones_(layer.weight)
    images = torch.ones(1, 64, *[8] * (layer.weight.dim() - 2), requires_grad=True)
    out = layer(images)
    out.sum().backward()
    dims = images.dim() - 2
    fan_in = out[0, 0][(out.shape[-1] // 2,) * dims].item()  # away from the border
    fan_out = images.grad[0, 0][(slice(2, 6),) * dims].mean().item()
    assert drawn(layer, "kaiming", nn.ReLU()) == pytest.approx(sqrt(6 / fan_in), rel=1e-2)
    assert drawn(layer, "kaiming") == pytest.approx(sqrt(6 / (fan_in + fan_out)), rel=1e-2)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_glorots_fans_do_not_depend_on_the_stride(kind):
    """TensorFlow counts channels × kernel: its ``_compute_fans`` knows the weight's shape alone."""
    for stride in (1, 2):
        layer = kind(16, 32, kernel_size=4, stride=stride)
        assert drawn(layer, "glorot", nn.ReLU()) == pytest.approx(sqrt(6 / (16 * 16 + 32 * 16)), rel=1e-2)


@pytest.mark.parametrize("rule", ["torch", "glorot", "kaiming"])
def test_layers_of_a_sequential_within_are_drawn(rule):
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Linear(8, 8, dtype=torch.float64), nn.ReLU(), nn.Linear(8, 8, bias=False))
    nested = nn.Sequential(nn.Sequential(nn.Linear(8, 8, dtype=torch.float64)), nn.Sequential(*flat[1:]))
    found = []
    for network in (flat, nested):
        for parameter in network.parameters():
            nn.init.constant_(parameter, float("nan"))
        torch.manual_seed(1)
        initialize(network, rule)
        found.append([parameter.detach().clone() for parameter in network.parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b) and a.isfinite().all()


@pytest.mark.parametrize("rule", ["torch", "glorot", "kaiming"])
def test_a_model_is_made_on_the_meta_device(rule):
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in BetaVAE(initialization=rule).parameters())


def test_kaiming_keeps_the_second_moment_and_torchs_rule_does_not():
    """He et al. 2015: after ten layers the activations are as large as at first."""

    def shrinks_to(rule):
        torch.manual_seed(0)
        network = nn.Sequential(*(module for _ in range(10) for module in (nn.Linear(512, 512), nn.ReLU())))
        initialize(network, rule)
        x = torch.randn(256, 512).relu()
        with torch.no_grad():
            return float(network(x).square().mean() / x.square().mean())

    assert 0.5 < shrinks_to("kaiming") < 2
    assert shrinks_to("torch") < 0.01


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_of_every_architecture_is_drawn_anew(architecture):
    def weights(rule):
        torch.manual_seed(1)
        return BetaVAE(architecture=architecture, initialization=rule).state_dict()

    plain, glorot, kaiming = (weights(rule) for rule in ("torch", "glorot", "kaiming"))
    for name in plain:
        assert not torch.equal(plain[name], glorot[name]), name
        if name.endswith("bias"):
            assert not kaiming[name].any(), name
    name = "encoder.moments.weight"  # no ReLU follows: the same bound
    assert float(kaiming[name].abs().max()) == pytest.approx(float(glorot[name].abs().max()), rel=0.02)


def test_torchs_rule_is_what_a_model_without_one_has():
    torch.manual_seed(2)
    expected = BetaVAE((1, 16, 16), 3).state_dict()
    torch.manual_seed(2)
    found = BetaVAE((1, 16, 16), 3, initialization="torch").state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="initialization must be one of torch, glorot, kaiming; got 'he'"):
        BetaVAE((1, 16, 16), 3, initialization="he")

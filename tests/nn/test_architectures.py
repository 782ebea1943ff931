"""The published networks, layer by layer, as the tables of the papers list them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from betavae_fast.nn.architectures import build

# (layer, output shape of one image, parameters), for 64×64 images of one channel and 10 latent dims
PUBLISHED = {
    "burgess": (
        [
            ("conv1", (32, 32, 32), 32 * 1 * 16 + 32),
            ("conv2", (32, 16, 16), 32 * 32 * 16 + 32),
            ("conv3", (32, 8, 8), 32 * 32 * 16 + 32),
            ("conv4", (32, 4, 4), 32 * 32 * 16 + 32),
            ("fc1", (256,), 512 * 256 + 256),
            ("fc2", (256,), 256 * 256 + 256),
            ("moments", (20,), 256 * 20 + 20),
        ],
        [
            ("fc1", (256,), 10 * 256 + 256),
            ("fc2", (256,), 256 * 256 + 256),
            ("fc3", (512,), 256 * 512 + 512),
            ("deconv1", (32, 8, 8), 32 * 32 * 16 + 32),
            ("deconv2", (32, 16, 16), 32 * 32 * 16 + 32),
            ("deconv3", (32, 32, 32), 32 * 32 * 16 + 32),
            ("deconv4", (1, 64, 64), 32 * 1 * 16 + 1),
        ],
    ),
    "locatello": (
        [
            ("conv1", (32, 32, 32), 32 * 1 * 16 + 32),
            ("conv2", (32, 16, 16), 32 * 32 * 16 + 32),
            ("conv3", (64, 8, 8), 64 * 32 * 4 + 64),
            ("conv4", (64, 4, 4), 64 * 64 * 4 + 64),
            ("fc1", (256,), 1024 * 256 + 256),
            ("moments", (20,), 256 * 20 + 20),
        ],
        [
            ("fc1", (256,), 10 * 256 + 256),
            ("fc2", (1024,), 256 * 1024 + 1024),
            ("deconv1", (64, 8, 8), 64 * 64 * 16 + 64),
            ("deconv2", (32, 16, 16), 64 * 32 * 16 + 32),
            ("deconv3", (32, 32, 32), 32 * 32 * 16 + 32),
            ("deconv4", (1, 64, 64), 32 * 1 * 16 + 1),
        ],
    ),
    "mlp": (
        [
            ("fc1", (1200,), 4096 * 1200 + 1200),
            ("fc2", (1200,), 1200 * 1200 + 1200),
            ("moments", (20,), 1200 * 20 + 20),
        ],
        [
            ("fc1", (1200,), 10 * 1200 + 1200),
            ("fc2", (1200,), 1200 * 1200 + 1200),
            ("fc3", (1200,), 1200 * 1200 + 1200),
            ("fc4", (4096,), 1200 * 4096 + 4096),
        ],
    ),
}


def layers_with_parameters(net: nn.Sequential, x: torch.Tensor) -> list[tuple[str, tuple[int, ...], int]]:
    layers = []
    for name, layer in net.named_children():
        x = layer(x)
        if count := sum(parameter.numel() for parameter in layer.parameters()):
            layers.append((name, tuple(x.shape[1:]), count))
    return layers


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_layers_are_the_published_ones(architecture):
    encoder, decoder = build(architecture, (1, 64, 64), 10)
    published_encoder, published_decoder = PUBLISHED[architecture]
    assert layers_with_parameters(encoder, torch.zeros(2, 1, 64, 64)) == published_encoder
    assert layers_with_parameters(decoder, torch.zeros(2, 10)) == published_decoder


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_every_layer_but_the_last_is_followed_by_the_published_nonlinearity(architecture):
    encoder, decoder = build(architecture, (1, 64, 64), 10)
    for net, expected in ((encoder, nn.ReLU), (decoder, nn.Tanh if architecture == "mlp" else nn.ReLU)):
        layers = [layer for layer in net if not isinstance(layer, (nn.Flatten, nn.Unflatten))]
        weighted, others = layers[::2], layers[1::2]
        assert all(list(layer.parameters()) for layer in weighted)
        assert len(others) == len(weighted) - 1
        assert all(type(layer) is expected for layer in others)


@pytest.mark.parametrize("architecture", ["burgess", "locatello"])
@pytest.mark.parametrize("side, stages", [(8, 1), (16, 2), (32, 3), (64, 4), (128, 5)])
def test_other_powers_of_two_have_more_or_fewer_stages(architecture, side, stages):
    encoder, decoder = build(architecture, (3, side, side), 7)
    assert sum(isinstance(layer, nn.Conv2d) for layer in encoder) == stages
    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in decoder) == stages
    moments = encoder(torch.zeros(2, 3, side, side))
    assert moments.shape == (2, 14)
    assert decoder(moments[:, :7]).shape == (2, 3, side, side)


def test_locatello_with_fewer_stages_keeps_the_layers_next_to_the_latents():
    encoder, decoder = build("locatello", (1, 32, 32), 10)
    convolutions = [layer for layer in encoder if isinstance(layer, nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size) for layer in convolutions] == [
        (32, (4, 4)),
        (64, (2, 2)),
        (64, (2, 2)),
    ]
    transposed = [layer for layer in decoder if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in transposed] == [64, 32, 1]


@pytest.mark.parametrize("architecture", ["burgess", "locatello"])
@pytest.mark.parametrize("size", [(28, 28), (64, 32), (4, 4), (1, 1), (96, 96)])
def test_a_size_the_convolutions_cannot_take_is_named(architecture, size):
    with pytest.raises(ValueError, match=rf"{architecture}.* got {size[0]}×{size[1]}; .*mlp"):
        build(architecture, (1, *size), 10)


def test_mlp_takes_any_size():
    encoder, decoder = build("mlp", (3, 5, 7), 2)
    assert decoder(encoder(torch.zeros(4, 3, 5, 7))[:, :2]).shape == (4, 3, 5, 7)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("vgg", (1, 64, 64), 10), "burgess, locatello, mlp; got 'vgg'"),
        (("mlp", (64, 64), 10), r"got \(64, 64\)"),
        (("mlp", (0, 64, 64), 10), r"got \(0, 64, 64\)"),
        (("mlp", (1, 64, 64), 0), "at least 1, got 0"),
    ],
)
def test_malformed_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(*arguments)

"""Packed networks give the numbers of the model for every architecture, and step aside where they do not apply."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from betavae_fast.data import ByteImages
from betavae_fast.evaluation import encoding, packed_network
from betavae_fast.evaluation.encoding import encode
from betavae_fast.evaluation.packed_network import pack, side_by_side
from betavae_fast.nn import BetaVAE
from betavae_fast.nn.architectures import build
from betavae_fast.ops import convolution

needs_mkldnn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
BFLOAT16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not packed_network._serves(torch.bfloat16), reason="oneDNN has no bfloat16 on this CPU"
    ),
)


def pictures(shape, count=11):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return ByteImages("noise", pixels, shape)


@needs_mkldnn
@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "architecture, shape",
    [
        ("burgess", (1, 64, 64)),
        ("burgess", (3, 16, 16)),
        ("locatello", (3, 32, 32)),
        ("locatello", (1, 8, 8)),
        ("mlp", (2, 5, 7)),
    ],
)
def test_the_moments_are_the_models(architecture, shape, memory_format, dtype, threads):
    torch.manual_seed(0)
    model = BetaVAE(shape, 3, architecture).eval().to(memory_format=memory_format)
    before = copy.deepcopy(model.state_dict())
    images = pictures(shape)
    assert encoding._packed(model, images.image_shape, 4, dtype) is not None
    with torch.no_grad():
        expected = torch.stack(model.encode(images.gather(torch.arange(11))))
    for number in (1, 2):
        torch.set_num_threads(number)
        seen = []
        found = encode(model, images, batch_size=4, precision=dtype, on_images=seen.append)
        error = (torch.stack([found.mu, found.logvar]) - expected).abs().max()
        assert error <= (1e-5 if dtype is torch.float32 else 2e-2)
        assert seen == [4, 4, 3]
        assert torch.get_num_threads() == number
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(before[name].stride() == after[name].stride() for name in before)


@needs_mkldnn
@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "architecture, shape",
    [("burgess", (1, 64, 64)), ("burgess", (3, 16, 16)), ("locatello", (3, 32, 32)), ("mlp", (2, 5, 7))],
)
def test_the_images_are_the_models(architecture, shape, plain, dtype):
    torch.manual_seed(0)
    model = BetaVAE(shape, 3, architecture).eval()
    if plain:  # torch's own transposed convolutions
        for layer in model.decoder:
            if isinstance(layer, nn.ConvTranspose2d):
                layer.__class__ = nn.ConvTranspose2d
    before = copy.deepcopy(model.state_dict())
    packed = pack(model.decoder, torch.zeros(8, 3), dtype)
    for count in (8, 3):
        z = torch.randn(count, 3)
        with torch.inference_mode():
            found, expected = packed(z.to(dtype)), model.decode(z)
        assert found.dtype is dtype and found.shape == expected.shape
        assert (found.float() - expected).abs().max() <= (1e-5 if dtype is torch.float32 else 2e-2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def hooked(model):
    model.encoder.fc1.register_forward_hook(lambda layer, inputs, output: output + 1)


def with_another_layer(model):
    model.encoder.fc1_relu = nn.Sigmoid()


def with_another_encoding(model):
    plain = model.encode
    model.encode = lambda images: tuple(2 * moment for moment in plain(images))


def with_a_hook_inside(model):
    inner = nn.Sequential(model.encoder.fc1)
    model.encoder.fc1 = inner
    inner[0].register_forward_hook(lambda layer, inputs, output: output + 1)


def of_float64(model):
    model.double()


def not_a_number(model):
    with torch.no_grad():
        model.encoder.conv1.bias[0] = torch.nan


@pytest.mark.parametrize(
    "change",
    [hooked, with_a_hook_inside, with_another_layer, with_another_encoding, of_float64, not_a_number],
)
def test_a_model_that_differs_is_run_layer_by_layer(change):
    model, images = BetaVAE((1, 8, 8), 3).eval(), pictures((1, 8, 8))
    change(model)
    assert encoding._packed(model, images.image_shape, 11, torch.float32) is None
    with torch.no_grad():
        mu, _ = model.encode(images.gather(torch.arange(11)))
    torch.testing.assert_close(encode(model, images).mu, mu.float(), equal_nan=True)


def test_a_torch_without_the_operators_runs_layer_by_layer(monkeypatch):
    model, images = BetaVAE((1, 8, 8), 3).eval(), pictures((1, 8, 8))
    expected = encode(model, images)

    def missing(*_):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_convolution_pointwise'")

    monkeypatch.setitem(packed_network._PACK, nn.Conv2d, missing)
    assert encoding._packed(model, images.image_shape, 11, torch.float32) is None
    torch.testing.assert_close(encode(model, images).mu, expected.mu)


def test_images_stay_as_they_are():
    images = torch.full((2, 3), -1.0)
    packed = pack(nn.Sequential(nn.ReLU(inplace=True), nn.Flatten()), images, torch.float32)
    if packed is not None:
        assert not packed(images).any()
    assert (images == -1).all()


def test_images_of_another_shape_and_of_no_number():
    model = BetaVAE((1, 8, 8), 3).eval()
    with pytest.raises(ValueError, match=r"images must have shape \(B, 1, 8, 8\)"):
        encode(model, pictures((1, 16, 16)))
    assert encode(model, pictures((1, 8, 8)), torch.tensor([], dtype=torch.int64)).mu.shape == (0, 3)


def test_an_error_in_a_thread_is_the_callers(threads):
    torch.set_num_threads(2)
    with pytest.raises(IndexError), side_by_side() as run:
        list(run([1].__getitem__, range(2)))
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(
    not convolution.serves(torch.empty(16, 16, 4, 4)), reason="this CPU has no instructions for the kernels"
)
def test_convolutions_in_bfloat16_are_those_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = build("burgess", (1, 64, 64), 4)
    images, ran = torch.rand(2, 1, 64, 64).bfloat16(), []
    convolve = packed_network.convolve
    monkeypatch.setattr(
        packed_network, "convolve", lambda layer, x, relu: ran.append(relu) or convolve(layer, x, relu)
    )
    packed = packed_network.pack(encoder, images, torch.bfloat16)
    ran.clear()
    packed(images)
    assert ran == [True] * 4

"""Locatello et al. 2019, "Challenging common assumptions in the unsupervised learning of disentangled
representations" (arXiv:1811.12359), table 1: the network that most disentanglement benchmarks report."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from betavae_fast.nn.architectures.stages import SMALLEST_MAP, count_stages
from betavae_fast.nn.convolutions import ConvTranspose2d
from betavae_fast.nn.sequential import Sequential

WIDE, NARROW = 64, 32
HIDDEN = 256


def locatello(image_shape: tuple[int, int, int], latent_dim: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder with two kinds of stages, of 32 and of 64 channels.

    Encoder: convolutions 32 4×4, 32 4×4, 64 2×2, 64 2×2, all stride 2 with "same" padding; fully connected 256 and 2·D.
    Decoder: fully connected 256, 1024, reshaped to 64×4×4; transposed convolutions to 64, 32, 32 and the image's
    channels, 4×4, stride 2. A ReLU follows every layer but the last of each network. The published network is for 64×64.
    A larger power of two adds 32-channel stages; a smaller one drops 32-channel stages first, then 64-channel stages.

    For an even side, "same" is a padding of 1 with a 4×4 kernel and of 0 with a 2×2 one. To copy published TensorFlow
    weights, stack the mean and log-variance layers into ``moments``, mean first. TensorFlow flattens (H, W, C), this code
    (C, H, W), so the inputs of the encoder's ``fc1`` and the outputs of the decoder's ``fc2`` have to be permuted.
    """
    stages = count_stages(image_shape, "locatello")
    image_channels = image_shape[0]
    wide_stages = min(stages, 2)
    flat = WIDE * SMALLEST_MAP * SMALLEST_MAP

    encoder: OrderedDict[str, nn.Module] = OrderedDict()
    in_channels = image_channels
    for stage in range(1, stages + 1):
        narrow = stage <= stages - wide_stages
        out_channels = NARROW if narrow else WIDE
        kernel_size, padding = (4, 1) if narrow else (2, 0)
        encoder[f"conv{stage}"] = nn.Conv2d(in_channels, out_channels, kernel_size, stride=2, padding=padding)
        encoder[f"conv{stage}_relu"] = nn.ReLU(inplace=True)
        in_channels = out_channels
    encoder["flatten"] = nn.Flatten()
    encoder["fc1"] = nn.Linear(flat, HIDDEN)
    encoder["fc1_relu"] = nn.ReLU(inplace=True)
    encoder["moments"] = nn.Linear(HIDDEN, 2 * latent_dim)

    decoder: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (latent_dim, HIDDEN, flat)
    for layer in (1, 2):
        decoder[f"fc{layer}"] = nn.Linear(widths[layer - 1], widths[layer])
        decoder[f"fc{layer}_relu"] = nn.ReLU(inplace=True)
    decoder["unflatten"] = nn.Unflatten(1, (WIDE, SMALLEST_MAP, SMALLEST_MAP))
    in_channels = WIDE
    for stage in range(1, stages):
        out_channels = WIDE if stage == 1 else NARROW
        decoder[f"deconv{stage}"] = ConvTranspose2d(
            in_channels, out_channels, kernel_size=4, stride=2, padding=1
        )
        decoder[f"deconv{stage}_relu"] = nn.ReLU(inplace=True)
        in_channels = out_channels
    decoder[f"deconv{stages}"] = ConvTranspose2d(
        in_channels, image_channels, kernel_size=4, stride=2, padding=1
    )
    return Sequential(encoder), Sequential(decoder)

"""Burgess et al. 2018, "Understanding disentangling in β-VAE" (arXiv:1804.03599), appendix A.1."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from betavae_fast.nn.architectures.stages import SMALLEST_MAP, count_stages
from betavae_fast.nn.convolutions import ConvTranspose2d
from betavae_fast.nn.sequential import Sequential

CHANNELS = 32
HIDDEN = 256


def burgess(image_shape: tuple[int, int, int], latent_dim: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder, mirror images of each other.

    Encoder: four convolutions of 32 channels, 4×4, stride 2, padding 1; fully connected 256, 256, 2·D.
    Decoder: fully connected 256, 256, 512, reshaped to 32×4×4; four transposed convolutions 4×4, stride 2,
    padding 1, the last to the image's channels. A ReLU follows every layer but the last of each network.
    The published network is for 64×64; other powers of two get one stage more or fewer per factor of two, with the same
    fully connected layers.
    """
    stages = count_stages(image_shape, "burgess")
    image_channels = image_shape[0]
    flat = CHANNELS * SMALLEST_MAP * SMALLEST_MAP

    encoder: OrderedDict[str, nn.Module] = OrderedDict()
    for stage in range(1, stages + 1):
        in_channels = image_channels if stage == 1 else CHANNELS
        encoder[f"conv{stage}"] = nn.Conv2d(in_channels, CHANNELS, kernel_size=4, stride=2, padding=1)
        encoder[f"conv{stage}_relu"] = nn.ReLU(inplace=True)
    encoder["flatten"] = nn.Flatten()
    for layer, in_features in enumerate((flat, HIDDEN), start=1):
        encoder[f"fc{layer}"] = nn.Linear(in_features, HIDDEN)
        encoder[f"fc{layer}_relu"] = nn.ReLU(inplace=True)
    encoder["moments"] = nn.Linear(HIDDEN, 2 * latent_dim)

    decoder: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (latent_dim, HIDDEN, HIDDEN, flat)
    for layer in (1, 2, 3):
        decoder[f"fc{layer}"] = nn.Linear(widths[layer - 1], widths[layer])
        decoder[f"fc{layer}_relu"] = nn.ReLU(inplace=True)
    decoder["unflatten"] = nn.Unflatten(1, (CHANNELS, SMALLEST_MAP, SMALLEST_MAP))
    for stage in range(1, stages):
        decoder[f"deconv{stage}"] = ConvTranspose2d(CHANNELS, CHANNELS, kernel_size=4, stride=2, padding=1)
        decoder[f"deconv{stage}_relu"] = nn.ReLU(inplace=True)
    decoder[f"deconv{stages}"] = ConvTranspose2d(CHANNELS, image_channels, kernel_size=4, stride=2, padding=1)
    return Sequential(encoder), Sequential(decoder)

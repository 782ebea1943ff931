"""The published encoder/decoder pairs.

An encoder maps pixels (B, C, H, W) in [0, 1] to moments (B, 2·D): the posterior mean in the first D columns,
its log-variance in the last D. A decoder maps z (B, D) to (B, C, H, W): logits for a Bernoulli likelihood,
the mean for a Gaussian or Laplace one. The layers are named in the order in which the papers list them, so
that published weights can be copied layer by layer.

Initialisation is PyTorch's default for every layer: weights and biases uniform in ±1/√fan_in. Burgess et al.
and Higgins et al. give none. The code of Locatello et al. uses TensorFlow's default, another distribution:
weights uniform in ±√(6 / (fan_in + fan_out)) (Glorot & Bengio 2010) and biases of 0.
"""

from __future__ import annotations

from collections import OrderedDict
from math import prod
from typing import get_args

from torch import nn

from betavae_fast.choices import Architecture
from betavae_fast.nn.convolutions import ConvTranspose2d
from betavae_fast.nn.sequential import Sequential

ImageShape = tuple[int, int, int]

# Height and width of the feature map between the convolutions and the fully connected layers.
_SMALLEST_MAP = 4


def build(
    architecture: Architecture, image_shape: ImageShape, latent_dim: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """The (encoder, decoder) pair of that architecture for images (C, H, W) and ``latent_dim`` latent dims.

    Raises: ValueError for an unknown name, a shape that is not three positive sizes, a latent_dim below 1,
        or an image size the architecture cannot take.

    >>> encoder, decoder = build("burgess", (1, 64, 64), 10)
    >>> encoder.moments
    Linear(in_features=256, out_features=20, bias=True)
    """
    if architecture not in _BUILDERS:
        raise ValueError(
            f"architecture must be one of {', '.join(get_args(Architecture))}; got {architecture!r}"
        )
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"image_shape must be (channels, height, width), all positive; got {tuple(image_shape)}"
        )
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}")
    return _BUILDERS[architecture](image_shape, latent_dim)


def _burgess(image_shape: ImageShape, latent_dim: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Burgess et al. 2018, "Understanding disentangling in β-VAE" (arXiv:1804.03599), appendix A.1.

    Encoder and decoder are mirror images of each other.

    Encoder: four convolutions of 32 channels, 4×4, stride 2, padding 1; fully connected 256, 256, 2·D.
    Decoder: fully connected 256, 256, 512, reshaped to 32×4×4; four transposed convolutions 4×4, stride 2,
    padding 1, the last to the image's channels. A ReLU follows every layer but the last of each network.
    The published network is for 64×64; other powers of two get one stage more or fewer per factor of two, with the same
    fully connected layers.
    """
    stages = _count_stages(image_shape, "burgess")
    image_channels, channels, hidden = image_shape[0], 32, 256
    flat = channels * _SMALLEST_MAP * _SMALLEST_MAP

    encoder: OrderedDict[str, nn.Module] = OrderedDict()
    for stage in range(1, stages + 1):
        in_channels = image_channels if stage == 1 else channels
        encoder[f"conv{stage}"] = nn.Conv2d(in_channels, channels, kernel_size=4, stride=2, padding=1)
        encoder[f"conv{stage}_relu"] = nn.ReLU(inplace=True)
    encoder["flatten"] = nn.Flatten()
    for layer, in_features in enumerate((flat, hidden), start=1):
        encoder[f"fc{layer}"] = nn.Linear(in_features, hidden)
        encoder[f"fc{layer}_relu"] = nn.ReLU(inplace=True)
    encoder["moments"] = nn.Linear(hidden, 2 * latent_dim)

    decoder: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (latent_dim, hidden, hidden, flat)
    for layer in (1, 2, 3):
        decoder[f"fc{layer}"] = nn.Linear(widths[layer - 1], widths[layer])
        decoder[f"fc{layer}_relu"] = nn.ReLU(inplace=True)
    decoder["unflatten"] = nn.Unflatten(1, (channels, _SMALLEST_MAP, _SMALLEST_MAP))
    for stage in range(1, stages):
        decoder[f"deconv{stage}"] = ConvTranspose2d(channels, channels, kernel_size=4, stride=2, padding=1)
        decoder[f"deconv{stage}_relu"] = nn.ReLU(inplace=True)
    decoder[f"deconv{stages}"] = ConvTranspose2d(channels, image_channels, kernel_size=4, stride=2, padding=1)
    return Sequential(encoder), Sequential(decoder)


def _locatello(image_shape: ImageShape, latent_dim: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Locatello et al. 2019, "Challenging common assumptions in the unsupervised learning of disentangled
    representations" (arXiv:1811.12359), table 1: the network that most disentanglement benchmarks report.

    Encoder: convolutions 32 4×4, 32 4×4, 64 2×2, 64 2×2, all stride 2 with "same" padding; fully connected 256 and 2·D.
    Decoder: fully connected 256, 1024, reshaped to 64×4×4; transposed convolutions to 64, 32, 32 and the image's
    channels, 4×4, stride 2. A ReLU follows every layer but the last of each network. The published network is for 64×64.
    A larger power of two adds 32-channel stages; a smaller one drops 32-channel stages first, then 64-channel stages.

    For an even side, "same" is a padding of 1 with a 4×4 kernel and of 0 with a 2×2 one. To copy published TensorFlow
    weights, stack the mean and log-variance layers into ``moments``, mean first. TensorFlow flattens (H, W, C), this code
    (C, H, W), so the inputs of the encoder's ``fc1`` and the outputs of the decoder's ``fc2`` have to be permuted.
    """
    stages = _count_stages(image_shape, "locatello")
    image_channels, (narrow, wide), hidden = image_shape[0], (32, 64), 256
    wide_stages = min(stages, 2)
    flat = wide * _SMALLEST_MAP * _SMALLEST_MAP

    encoder: OrderedDict[str, nn.Module] = OrderedDict()
    in_channels = image_channels
    for stage in range(1, stages + 1):
        out_channels, kernel_size, padding = (narrow, 4, 1) if stage <= stages - wide_stages else (wide, 2, 0)
        encoder[f"conv{stage}"] = nn.Conv2d(in_channels, out_channels, kernel_size, stride=2, padding=padding)
        encoder[f"conv{stage}_relu"] = nn.ReLU(inplace=True)
        in_channels = out_channels
    encoder["flatten"] = nn.Flatten()
    encoder["fc1"] = nn.Linear(flat, hidden)
    encoder["fc1_relu"] = nn.ReLU(inplace=True)
    encoder["moments"] = nn.Linear(hidden, 2 * latent_dim)

    decoder: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (latent_dim, hidden, flat)
    for layer in (1, 2):
        decoder[f"fc{layer}"] = nn.Linear(widths[layer - 1], widths[layer])
        decoder[f"fc{layer}_relu"] = nn.ReLU(inplace=True)
    decoder["unflatten"] = nn.Unflatten(1, (wide, _SMALLEST_MAP, _SMALLEST_MAP))
    in_channels = wide
    for stage in range(1, stages):
        out_channels = wide if stage == 1 else narrow
        decoder[f"deconv{stage}"] = ConvTranspose2d(
            in_channels, out_channels, kernel_size=4, stride=2, padding=1
        )
        decoder[f"deconv{stage}_relu"] = nn.ReLU(inplace=True)
        in_channels = out_channels
    decoder[f"deconv{stages}"] = ConvTranspose2d(
        in_channels, image_channels, kernel_size=4, stride=2, padding=1
    )
    return Sequential(encoder), Sequential(decoder)


def _mlp(image_shape: ImageShape, latent_dim: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Higgins et al. 2017, "β-VAE: learning basic visual concepts with a constrained variational framework", table 1: the
    network of the dSprites experiments.

    Encoder: fully connected 1200, 1200 (ReLU), 2·D. Decoder: fully connected 1200, 1200, 1200 (tanh), pixels. It is
    published for 64×64 with one channel, but takes images of any size.
    """
    pixels, hidden = prod(image_shape), 1200

    encoder: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for layer, in_features in enumerate((pixels, hidden), start=1):
        encoder[f"fc{layer}"] = nn.Linear(in_features, hidden)
        encoder[f"fc{layer}_relu"] = nn.ReLU(inplace=True)
    encoder["moments"] = nn.Linear(hidden, 2 * latent_dim)

    decoder: OrderedDict[str, nn.Module] = OrderedDict()
    for layer, in_features in enumerate((latent_dim, hidden, hidden), start=1):
        decoder[f"fc{layer}"] = nn.Linear(in_features, hidden)
        decoder[f"fc{layer}_tanh"] = nn.Tanh()
    decoder["fc4"] = nn.Linear(hidden, pixels)
    decoder["unflatten"] = nn.Unflatten(1, image_shape)
    return Sequential(encoder), Sequential(decoder)


def _count_stages(image_shape: ImageShape, architecture: Architecture) -> int:
    """The number of stride-2 stages between (C, 2ⁿ, 2ⁿ) and (·, 4, 4): 4 for the published 64×64.

    Raises: ValueError if the image is not square or its side is not a power of two of at least 8.

    >>> _count_stages((1, 64, 64), "burgess"), _count_stages((3, 128, 128), "burgess")
    (4, 5)
    """
    _, height, width = image_shape
    if height != width or height < 2 * _SMALLEST_MAP or height & (height - 1):
        raise ValueError(
            f'architecture "{architecture}" takes square images whose side is a power of two from 8 up, got '
            f'{height}×{width}; pad or resize them, or use architecture "mlp", which takes any size'
        )
    return (height // _SMALLEST_MAP).bit_length() - 1


_BUILDERS = {"burgess": _burgess, "locatello": _locatello, "mlp": _mlp}

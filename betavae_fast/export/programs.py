"""The two functions of a model as programs of torch.export: images to posteriors, and codes to images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.export import Dim, ExportedProgram

from betavae_fast.choices import PixelType
from betavae_fast.nn import BetaVAE

TOLERANCE = 1e-4
"""The most by which a number x of an exported program may differ from the model's, in units of max(1, |x|)."""

_BATCHES = (1, 5)  # of the checks; a program is traced with 2, because torch.export takes 1 for a constant
_TRACED = 2


Outputs = Tensor | Sequence[Tensor]


class Program(NamedTuple):
    """A function of a model, and what the model itself computes, to check the file that is made of it."""

    name: str
    exported: ExportedProgram
    input: str
    outputs: tuple[str, ...]
    samples: list[tuple[Tensor, Outputs]]  # an input, and the model's outputs


def programs(model: BetaVAE, pixels: PixelType) -> tuple[Program, Program]:
    """The encoder and the decoder of ``model``, on the CPU in float32, for batches of any size.

    The encoder takes images (B, C, H, W), float32 in [0, 1] or uint8 from 0 to 255, to mu and logvar, (B, D) each. logvar
    lies in the model's ``logvar_range``. The decoder takes z (B, D) to the expected images (B, C, H, W). Neither has
    operators of this library.
    """
    generator = Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        size = (count, *model.image_shape)
        if pixels == "uint8":
            return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        return torch.rand(size, generator=generator)

    def codes(count: int) -> Tensor:
        return torch.randn(count, model.latent_dim, generator=generator)

    return (
        _program("encoder", _Encoder(_without(model, "decoder")), "images", ("mu", "logvar"), images),
        _program("decoder", _Decoder(_without(model, "encoder")), "z", ("images",), codes),
    )


def check(file: str, program: Program, run: Callable[[Tensor], Outputs]) -> None:
    """Compare ``run``, which computes what was written, with the model on random inputs.

    Args:
        file: the name for messages.
    Raises: ValueError if an output differs by more than `TOLERANCE`, or is NaN.
    """
    for x, expected in program.samples:
        for name, found, exact in zip(program.outputs, _each(run(x)), _each(expected), strict=True):
            difference = float(((found - exact).abs() / exact.abs().clamp(min=1)).max())
            if not difference <= TOLERANCE:  # NaN fails, too
                raise ValueError(
                    f"{file}: {name} differs from the model's by {difference:.3g} for {len(x)} inputs, at most "
                    f"{TOLERANCE:g} is allowed; nothing was written"
                )


class _Encoder(nn.Module):
    """The posterior's moments as a module, the form that torch.export takes."""

    def __init__(self, model: BetaVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.model.encode(images)
        return mu, self.model.latent.clamped(logvar)


class _Decoder(nn.Module):
    """The expected images as a module, the form that torch.export takes."""

    def __init__(self, model: BetaVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        return self.model.pixels(self.model.decode(z))


def _without(model: BetaVAE, part: str) -> BetaVAE:
    """A copy of ``model`` without the weights of ``part``, which a program would hold although it does not use them.

    Its weights are contiguous: in channels_last the shapes of a trace would depend on its batch.
    """
    copied = copy.deepcopy(model)
    setattr(copied, part, nn.Identity())
    copied.to("cpu", torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return copied.requires_grad_(False)


def _program(
    name: str, function: nn.Module, input: str, outputs: tuple[str, ...], draw: Callable[[int], Tensor]
) -> Program:
    function.eval()
    exported = torch.export.export(function, (draw(_TRACED),), dynamic_shapes=({0: Dim("batch")},))
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has paths of this machine, and files are made to be passed on
    samples = [(x, function(x)) for x in map(draw, _BATCHES)]
    return Program(name, exported, input, outputs, samples)


def _each(outputs: Outputs) -> Sequence[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else outputs

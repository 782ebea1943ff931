"""diffusers' AutoencoderKL with a fused posterior.

All there is to do:

    vae = patch(AutoencoderKL.from_pretrained(...))
    posterior = vae.encode(images).latent_dist  # a betavae_fast.DiagonalGaussian
    z, kl = posterior.sample(), posterior.kl()
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from betavae_fast.nn import DiagonalGaussian
from betavae_fast.nn.posterior import Generators

_Vae = TypeVar("_Vae", bound=AutoencoderKL)


class SameDraws(DiagonalGaussian):
    """Draws its noise as diffusers does: from torch's generator, the bits it gave before."""

    def sample(self, generator: Generators = None, *, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            mean = self.mean
            noise = randn_tensor(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return super().sample(noise=noise)


def patch(vae: _Vae, *, same_draws: bool = False) -> _Vae:
    """Let ``vae.encode`` return :class:`betavae_fast.DiagonalGaussian`. The weights and all else stay; :func:`unpatch`
    undoes it.

    Args:
        vae: changed in place, this one object.
        same_draws: draw noise as diffusers does, so that a generator's samples stay what they were, up to rounding;
            slower.
    Returns: ``vae``.
    Raises: TypeError for another model.
    """
    if not isinstance(vae, AutoencoderKL) or type(vae).encode is not AutoencoderKL.encode:
        raise TypeError(f"patch: vae must be an AutoencoderKL with its own encode, got {type(vae).__name__}")
    vae.encode = MethodType(_encode_to(SameDraws if same_draws else DiagonalGaussian), vae)
    return vae


def unpatch(vae: _Vae) -> _Vae:
    """Undo :func:`patch`. Raises: ValueError where there was none."""
    if "encode" not in vars(vae):
        raise ValueError("unpatch: vae is not patched")
    del vae.encode
    return vae


def _encode_to(posterior: type[DiagonalGaussian]) -> Callable[..., Any]:
    def encode(self: AutoencoderKL, x: Tensor, return_dict: bool = True) -> Any:
        parts = x.split(1) if self.use_slicing and len(x) > 1 else (x,)
        moments = [self._encode(part) for part in parts]
        latent = posterior(moments[0] if len(moments) == 1 else torch.cat(moments))
        return AutoencoderKLOutput(latent_dist=latent) if return_dict else (latent,)

    return apply_forward_hook(encode)

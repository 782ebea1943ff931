"""diffusers' AutoencoderKL with a fused posterior.

Usage:

    vae = patch(AutoencoderKL.from_pretrained(...))
    posterior = vae.encode(images).latent_dist  # a betavae_fast.DiagonalGaussian
    z, kl = posterior.sample(), posterior.kl()
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
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
    """A diagonal Gaussian that draws its noise as diffusers does: the same bits, from torch's generator."""

    def sample(self, generator: Generators = None, *, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            mean = self.mean
            noise = randn_tensor(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return super().sample(noise=noise)


class _Patched(AutoencoderKL):
    """The methods of a patched model, which override those of its class in a subclass made of the two."""

    _plain: type[AutoencoderKL]
    _posterior: type[DiagonalGaussian]

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        parts = x.split(1) if self.use_slicing and len(x) > 1 else (x,)
        moments = [self._encode(part) for part in parts]
        latent = self._posterior(moments[0] if len(moments) == 1 else torch.cat(moments))
        return AutoencoderKLOutput(latent_dist=latent) if return_dict else (latent,)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # A pickle cannot name this class, because it is in no module: it makes a model of the plain class and patches it.
        make, arguments, *state = super().__reduce_ex__(protocol)
        arguments = tuple(self._plain if x is type(self) else x for x in arguments)
        return _make_patched, (self._posterior, make, arguments), *state


@cache
def _patched_class(plain: type[AutoencoderKL], posterior: type[DiagonalGaussian]) -> type[_Patched]:
    # The name stays the same, because save_pretrained and pipelines write it to their files.
    names = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (_Patched, plain), {**names, "_plain": plain, "_posterior": posterior})


def _make_patched(
    posterior: type[DiagonalGaussian], make: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    return patch(make(*arguments), same_draws=posterior is SameDraws)


def patch(vae: _Vae, *, same_draws: bool = False) -> _Vae:
    """Make ``vae.encode`` return a :class:`betavae_fast.DiagonalGaussian`.

    Everything else stays as it is, including the weights; :func:`unpatch` undoes the change. Copies and pickles of
    ``vae`` are patched, too. ``save_pretrained`` writes the same files as without the patch.

    Args:
        vae: the model, changed in place: the class of this object becomes a subclass of its class.
        same_draws: draw noise as diffusers does, so that a generator gives the same samples up to rounding; slower.
    Returns: ``vae``.
    Raises: TypeError for another model.
    """
    plain = _class_without_patch(vae)
    if not issubclass(plain, AutoencoderKL) or plain.encode is not AutoencoderKL.encode:
        raise TypeError(f"patch: vae must be an AutoencoderKL with its own encode, got {plain.__name__}")
    vae.__class__ = _patched_class(plain, SameDraws if same_draws else DiagonalGaussian)  # type: ignore[arg-type]
    return vae


def unpatch(vae: _Vae) -> _Vae:
    """Undo :func:`patch`. Raises: ValueError if ``vae`` is not patched."""
    plain = _class_without_patch(vae)
    if plain is type(vae):
        raise ValueError("unpatch: vae is not patched")
    vae.__class__ = plain
    return vae


def _class_without_patch(vae: Any) -> type[Any]:
    return vars(type(vae)).get("_plain", type(vae))

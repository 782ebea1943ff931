"""The β-VAE objective as a loss: reconstruction plus β times KL, both in nats per image."""

from __future__ import annotations

from typing import NamedTuple, get_args

from torch import Tensor, nn

from betavae_fast.choices import Likelihood
from betavae_fast.functional import PackedBits, bernoulli_nll, gaussian_nll, laplace_nll
from betavae_fast.nn.pixels import TargetCheck
from betavae_fast.ops.backends import Backend
from betavae_fast.settings import check_scale, not_negative


class LossOutput(NamedTuple):
    """The parts of the loss in nats, summed over pixels or latent dims and averaged over the batch."""

    total: Tensor  # scalar: reconstruction + beta * kl
    reconstruction: Tensor  # scalar: −log p(x|z)
    kl: Tensor  # scalar
    kl_per_dim: Tensor  # one value per latent dim


class ReconstructionLoss(nn.Module):
    """−log p(x|z): the pixel likelihood as a loss, a scalar in nats per image.

    Args:
        likelihood: meaning of the decoder's output. "bernoulli": logits, for pixels in [0, 1] (a grey pixel
            counts as its probability of being on). "gaussian", "laplace": the mean of a density of width
            ``scale``, whose normalising constant is part of the loss; for any finite pixels.
        scale: standard deviation (Gaussian) or diversity (Laplace), in units of the pixel range.
        backend: the backend of the likelihood; "auto" chooses by the tensor's device.

    Raises: ValueError for an unknown likelihood, a scale that is not positive, or a scale for a Bernoulli
        likelihood, which has none.

    >>> import torch
    >>> ReconstructionLoss()(torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8, dtype=torch.bool))  # 64 ln 2
    tensor(44.3614)
    """

    def __init__(
        self, likelihood: Likelihood = "bernoulli", *, scale: float = 1.0, backend: Backend = "auto"
    ) -> None:
        super().__init__()
        if likelihood not in get_args(Likelihood):
            raise ValueError(
                f"likelihood must be one of {', '.join(get_args(Likelihood))}; got {likelihood!r}"
            )
        check_scale(likelihood, scale)
        self.likelihood: Likelihood = likelihood
        self.scale = scale
        self.backend: Backend = backend
        self.check = TargetCheck(type(self).__name__)

    def forward(self, decoded: Tensor, target: Tensor | PackedBits) -> Tensor:
        """The loss of one batch. Arguments and errors are those of :meth:`BetaVAELoss.forward`."""
        loss = self._nll(decoded, target)
        if not isinstance(target, PackedBits):
            self.check(target, self.likelihood, self.scale)
        return loss

    def _nll(self, decoded: Tensor, target: Tensor | PackedBits) -> Tensor:
        if self.likelihood == "bernoulli":
            return bernoulli_nll(decoded, target, backend=self.backend)
        nll = gaussian_nll if self.likelihood == "gaussian" else laplace_nll
        return nll(decoded, target, scale=self.scale, backend=self.backend)

    def extra_repr(self) -> str:
        return f"likelihood={self.likelihood!r}, scale={self.scale}"


class BetaVAELoss(nn.Module):
    """−E[log p(x|z)] + β KL(q(z|x) ‖ N(0, I)) (Higgins et al. 2017, equation 4), without any other scale factor.

    Args:
        beta: weight of the KL, at least 0; 1 is the evidence lower bound.
        likelihood, scale, backend: passed to :class:`ReconstructionLoss`.

    Raises: ValueError for a negative or infinite beta; the errors of :class:`ReconstructionLoss`.

    >>> import torch
    >>> logits, white = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8, dtype=torch.bool)
    >>> out = BetaVAELoss(beta=4.0)(logits, white, kl_per_dim=torch.tensor([0.5, 0.0]))
    >>> out.reconstruction, out.total  # 64 ln 2, and 4 × 0.5 more
    (tensor(44.3614), tensor(46.3614))
    """

    def __init__(
        self,
        beta: float = 4.0,
        likelihood: Likelihood = "bernoulli",
        *,
        scale: float = 1.0,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        not_negative("beta", beta)
        self.beta = beta
        self.reconstruction = ReconstructionLoss(likelihood, scale=scale, backend=backend)
        self.reconstruction.check.caller = type(self).__name__

    def forward(self, decoded: Tensor, target: Tensor | PackedBits, kl_per_dim: Tensor) -> LossOutput:
        """The loss of one batch.

        Args:
            decoded: the decoder's output (B, C, H, W), floating point.
            target: the images, same shape; bool, uint8 (0…255, divided by 255) or floating point; or
                :class:`betavae_fast.PackedBits`.
            kl_per_dim: batch-mean KL of each latent dim, as the latent layer returns it by default. Its sum is the KL, so
                average the KLs of ``reduction="sample"`` or ``"none"`` over the batch first.
        Returns: float32 (float64 for float64 input).
        Raises: ValueError if the shapes differ; TypeError for a target of another dtype; ValueError for a floating-point
            target with NaN or infinity or, for a Bernoulli likelihood, outside [0, 1] (1e-4 or one unit in the last
            place beyond passes as rounding). Targets that look like 0…255 while the scale is at most 1 give one
            warning. The values of every target are checked on the CPU, those of the first on a GPU, and none in a
            compiled, exported or captured program.
        """
        reconstruction = self.reconstruction(decoded, target)
        kl = kl_per_dim.sum()
        return LossOutput(reconstruction + self.beta * kl, reconstruction, kl, kl_per_dim)

    def extra_repr(self) -> str:
        return f"beta={self.beta}"

"""A pythae model whose latent step and Gaussian loss are the fused ops.

It works with pythae's Trainer, encoders, decoders and samplers:

    model = FusedBetaVAE(BetaVAEConfig(input_dim=(1, 28, 28), latent_dim=10, beta=4.0), encoder, decoder)
    BaseTrainer(model, train_dataset=images, training_config=config).train()
"""

from __future__ import annotations

import math
from typing import Any

from pythae.models import BetaVAE
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor
from torch.nn import functional as F

from betavae_fast.functional import gaussian_nll, reparameterize_kl
from betavae_fast.nn.pixels import TargetCheck

# A Gaussian of this width has the normalising constant 1 and the negative log-likelihood π (x − t)².
_UNNORMALISED = 1 / math.sqrt(2 * math.pi)


class FusedBetaVAE(BetaVAE):
    """pythae's ``BetaVAE`` with the same configuration, networks and numbers, but other noise bits.

    As in pythae, the reconstruction loss is ½ (x − t)² without the constant ("mse"), or the cross-entropy of
    probabilities ("bce"). The latter is computed by torch, because pythae's decoders end in a sigmoid. Losses are sums
    over pixels and latent dims and means over the batch. z is sampled in training and in evaluation. β = 1 is pythae's
    ``VAE``. Inputs are checked like the targets of :class:`betavae_fast.BetaVAELoss`: "bce" as Bernoulli, "mse" as
    Gaussian.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.check = TargetCheck(type(self).__name__)

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Compute ``loss``, ``recon_loss``, ``reg_loss`` (nats per image), ``recon_x``, ``z`` of ``inputs["data"]``."""
        x: Tensor = inputs["data"]
        encoded = self.encoder(x)
        z, kl = reparameterize_kl(
            encoded.embedding,
            encoded.log_covariance,
            reduction="batchmean",
            noise=kwargs.get("noise"),
        )
        decoded = self.decoder(z)["reconstruction"]
        reconstruction = self._reconstruction_loss(decoded, x)
        return ModelOutput(
            recon_loss=reconstruction,
            reg_loss=kl,
            loss=reconstruction + self.beta * kl,
            recon_x=decoded,
            z=z,
        )

    def _reconstruction_loss(self, decoded: Tensor, x: Tensor) -> Tensor:
        mse = self.model_config.reconstruction_loss == "mse"
        self.check(x, "gaussian" if mse else "bernoulli")
        if mse:
            return gaussian_nll(decoded, x.view_as(decoded), scale=_UNNORMALISED) / (2 * math.pi)
        return F.binary_cross_entropy(decoded, x.view_as(decoded), reduction="sum") / len(x)

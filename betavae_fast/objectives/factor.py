"""FactorVAE: a penalty on the total correlation, which a discriminator estimates."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from betavae_fast.functional import reparameterize
from betavae_fast.noise import make_rng
from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.options import FactorVAEOptions
from betavae_fast.processes import mean_over_processes


@dataclass(eq=False, repr=False)
class FactorVAE(Objective, FactorVAEOptions):
    """Reconstruction + KL + γ TC (Kim & Mnih 2018, arXiv:1802.05983, equation 2 and algorithm 2).

    A discriminator D between samples of q(z) and of Π_d q(z_d) estimates TC ≈ E[log D(z) − log(1 − D(z))], in nats.
    D learns from the same batch. The first half serves as samples of q(z); the second half, in which each latent dim is
    permuted independently, as samples of Π_d q(z_d). D's loss adds its gradient to the total but leaves the total's value
    unchanged; :meth:`update` then takes a step of D's Adam. D's weights and the seed of its permutations are drawn from
    torch's generator at construction. Each process, and each accumulated part of a batch, permutes only its own rows.

    D's Adam has β1 = 0.5 and β2 = 0.9.

    Args:
        latent_dim: number of latent dims.
        width: units of each of its 6 hidden layers, whose leaky ReLUs have slope 0.2.
    Logs: ``total_correlation`` in nats; ``discriminator_loss``, the cross-entropy in nats (log 2 for guessing);
        ``discriminator_accuracy``, the mean over both kinds of the share of samples classified correctly.
    Raises: ValueError for a number out of its range, or a batch of one.

    >>> _ = torch.manual_seed(0)
    >>> z = torch.randn(64, 1).expand(64, 2)  # two identical channels
    >>> inputs = LossInputs(torch.tensor(10.0), torch.ones(2), z, z, z, torch.tensor(0))
    >>> objective = FactorVAE(latent_dim=2, width=32, lr=3e-3)
    >>> for _ in range(100):
    ...     total, metrics = objective(inputs)
    ...     total.backward()
    ...     objective.update(inputs.reconstruction, inputs.kl)
    >>> bool(metrics["total_correlation"] > 0.5), bool(metrics["discriminator_accuracy"] > 0.75)
    (True, True)
    """

    logged = ("total_correlation", "discriminator_loss", "discriminator_accuracy")
    latent_dim: int
    width: int = field(default=1000, kw_only=True)
    optimizer: torch.optim.Adam = field(init=False)
    _rng: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.discriminator = _discriminator(self.latent_dim, self.width)
        # capturable: a CUDA graph can record its steps. On a CPU this has no effect.
        self.optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=self.lr, betas=(0.5, 0.9), fused=True, capturable=True
        )
        self.register_buffer("_rng", make_rng("cpu"))  # (seed, stream) of the next permutation

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        z = inputs.z
        if len(z) < 2:
            raise ValueError(f"FactorVAE needs a batch of at least 2, got {len(z)}")
        frozen = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        total_correlation = _log_ratio(functional_call(self.discriminator, frozen, z)).mean()
        half = len(z) // 2
        joint, product = z.detach()[:half], self._permuted(z.detach()[half:])
        ratios = _log_ratio(self.discriminator(torch.cat((joint, product))))
        joint_ratio, product_ratio = ratios.split((half, len(z) - half))
        loss = 0.5 * (softplus(-joint_ratio).mean() + softplus(product_ratio).mean())
        right = 0.5 * ((joint_ratio > 0).to(z.dtype).mean() + (product_ratio < 0).to(z.dtype).mean())
        total = inputs.reconstruction + inputs.kl + self.gamma * total_correlation + (loss - loss.detach())
        return ObjectiveOutput(
            total,
            {
                "total_correlation": total_correlation,
                "discriminator_loss": loss,
                "discriminator_accuracy": right,
            },
        )

    @torch.no_grad()
    def update(self, reconstruction: Tensor, kl: Tensor) -> None:
        for weight in self.discriminator.parameters():
            if weight.grad is not None:
                weight.grad = mean_over_processes(weight.grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._rng[1] += 1

    def _permuted(self, z: Tensor) -> Tensor:
        """``z``, (B, D), with each column permuted independently, into the order that sorts random noise."""
        standard = torch.zeros_like(z, memory_format=torch.contiguous_format)
        return z.gather(0, reparameterize(standard, standard, seed=self._rng).argsort(0))


def _discriminator(latent_dim: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (latent_dim, *[width] * 5):
        layers += [nn.Linear(inputs, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(width, 2))


def _log_ratio(logits: Tensor) -> Tensor:
    """log D − log(1 − D) from the two logits of D, (B, 2) -> (B,)."""
    real, permuted = logits.unbind(1)
    return real - permuted

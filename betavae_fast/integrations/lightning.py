"""A β-VAE for Lightning's Trainer, and callbacks that log the KL of each channel and draw latent traversals.

Usage:

    trainer = lightning.Trainer(callbacks=[CapacityLogger(), TraversalLogger(image)])
    trainer.fit(LitBetaVAE((1, 64, 64)), loader)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from torch import Tensor

from betavae_fast.choices import ACTIVE_NATS, Architecture, Likelihood
from betavae_fast.evaluation import pictures
from betavae_fast.evaluation.summary import Channel
from betavae_fast.evaluation.traversal import traverse
from betavae_fast.nn import BetaVAE, BetaVAELoss, split_kl
from betavae_fast.settings import at_least
from betavae_fast.training.device import resolve_device
from betavae_fast.training.precision import choose_precision


class LitBetaVAE(lightning.LightningModule):
    """:class:`betavae_fast.BetaVAE` and :class:`betavae_fast.BetaVAELoss` as a LightningModule, with Adam.

    A batch is a tensor of images (B, C, H, W), or a list whose first entry is that tensor. ``loss``, ``reconstruction``
    and ``kl`` are logged in nats per image. Validation and tests use z = μ and log them with the prefix ``val_`` or
    ``test_``. ``Trainer.predict`` gives each batch's posterior means and log-variances. Floating-point images are checked
    like the targets of :class:`betavae_fast.BetaVAELoss`.

    Args:
        image_shape, latent_dim, architecture, likelihood, scale: as in :class:`betavae_fast.BetaVAE`.
        beta: weight of the KL.
        lr: Adam's step size.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 10,
        beta: float = 4.0,
        *,
        architecture: Architecture = "burgess",
        likelihood: Likelihood = "bernoulli",
        scale: float = 1.0,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = BetaVAE(image_shape, latent_dim, architecture, likelihood=likelihood, scale=scale)
        self.criterion = BetaVAELoss(beta, likelihood, scale=scale)
        self.lr = lr

    def training_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Compute ``loss``, and ``kl_per_dim`` for :class:`CapacityLogger`."""
        return self._step(batch, "")

    def validation_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._step(batch, "val_")

    def test_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._step(batch, "test_")

    def predict_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        """The codes of the batch: μ and log σ², (B, D) each."""
        mu, logvar = self.model.encode(_images(batch))
        return mu, logvar

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def auto_precision(self, batch_size: int, device: str = "auto") -> Literal["bf16-mixed", "32-true"]:
        """The ``precision`` for a Trainer of this module that ``betavae-fast train --precision auto`` would take.

        On a CPU it is measured with the module's own networks, before ``fit``.
        """
        choice = choose_precision(self.model, batch_size, resolve_device(device))
        return "bf16-mixed" if choice.precision == "bf16" else "32-true"

    def _step(self, batch: Tensor | Sequence[Tensor], prefix: str) -> dict[str, Tensor]:
        x = _images(batch)
        out = self.model(x)
        loss = self.criterion(out.decoded, x, out.kl)
        values = {"loss": loss.total, "reconstruction": loss.reconstruction, "kl": loss.kl}
        named = {prefix + name: value for name, value in values.items()}
        self.log_dict(named, prog_bar=True, batch_size=len(x))
        return {"loss": loss.total, "kl_per_dim": loss.kl_per_dim.detach()}


def _images(batch: Tensor | Sequence[Tensor]) -> Tensor:
    return batch if isinstance(batch, Tensor) else batch[0]


class CapacityLogger(lightning.Callback):
    """Logs the KL of each channel as ``capacity/00``, ``capacity/01``, … in nats per image.

    It works for any module whose ``training_step`` returns a dict with ``kl_per_dim`` of shape (D,), or of shape
    (C, H, W), which is summed over space.
    """

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(outputs, Mapping) or "kl_per_dim" not in outputs:
            raise ValueError(f"training_step must return a dict with 'kl_per_dim', got {outputs!r:.60}")
        if trainer.global_step % trainer.log_every_n_steps == 0:
            per_channel = outputs["kl_per_dim"].unsqueeze(-1).flatten(1).sum(1)
            pl_module.log_dict({f"capacity/{d:02d}": kl for d, kl in enumerate(per_channel)})


class TraversalLogger(lightning.Callback):
    """Draws the latent traversal of one image after every ``every_n_epochs`` epochs of training.

    The figure goes to the loggers that accept figures (TensorBoard). Without such a logger it is written to ``directory``
    as ``traversal-EPOCH.png``.

    Args:
        image: (C, H, W), an input of the module's ``model``, a :class:`betavae_fast.BetaVAE`.
        values: the values that each channel is set to.
        directory: folder of the pictures; None for the trainer's ``default_root_dir``.
    """

    def __init__(
        self,
        image: Tensor,
        *,
        every_n_epochs: int = 1,
        values: Sequence[float] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0),
        directory: str | Path | None = None,
    ) -> None:
        at_least(1)("every_n_epochs", every_n_epochs)
        self.image, self.values = image, values
        self.every_n_epochs = every_n_epochs
        self.directory = directory

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs or not trainer.is_global_zero:
            return
        model: BetaVAE = pl_module.model
        image = self.image.to(pl_module.device)
        channels = _by_kl(model, image)
        images = traverse(model, image, [channel.index for channel in channels], self.values)
        figure = pictures.traversal(images.float().cpu().numpy(), channels, self.values)
        experiments = [logger.experiment for logger in trainer.loggers]
        writers = [e for e in experiments if hasattr(e, "add_figure")]
        for writer in writers:
            writer.add_figure("traversal", figure, global_step=trainer.global_step)
        if not writers:
            folder = Path(trainer.default_root_dir if self.directory is None else self.directory)
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / f"traversal-{trainer.current_epoch:04d}.png")


def _by_kl(model: BetaVAE, image: Tensor) -> list[Channel]:
    """The channels, sorted by the KL of this image's posterior, largest first."""
    dispersion, variance = split_kl(*model.encode(image.unsqueeze(0)))
    parts = zip(dispersion.tolist(), variance.tolist(), strict=True)
    channels = [Channel(d, m + v, m, v, active=m + v > ACTIVE_NATS) for d, (m, v) in enumerate(parts)]
    return sorted(channels, key=lambda channel: channel.kl, reverse=True)

"""The same in Lightning: the model and its loss in a LightningModule, everything else the Trainer's.

pip install lightning
python examples/lightning_module.py --steps 200
"""

import argparse

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from betavae_fast import BetaVAE, BetaVAELoss
from betavae_fast.data import load_dataset


class LitBetaVAE(lightning.LightningModule):
    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int = 10, beta: float = 4.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = BetaVAE(image_shape, latent_dim)
        self.criterion = BetaVAELoss(beta)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        (x,) = batch
        out = self.model(x)
        loss = self.criterion(out.decoded, x, out.kl)
        self.log_dict(
            {"loss": loss.total, "reconstruction": loss.reconstruction, "kl": loss.kl}, prog_bar=True
        )
        self.log_dict({f"capacity/{d:02d}": kl for d, kl in enumerate(loss.kl_per_dim)})
        return loss.total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="dsprites")
    parser.add_argument("--images", type=int, default=10_000, help="of the data set, the first ones")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()

    lightning.seed_everything(0)
    data = load_dataset(args.data)
    images = data.gather(torch.arange(min(args.images, len(data))))  # bool or uint8: a quarter of the memory
    loader = DataLoader(TensorDataset(images), args.batch_size, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(
        max_steps=args.steps, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.fit(LitBetaVAE(data.image_shape), loader)
    print({name: round(float(value), 2) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()

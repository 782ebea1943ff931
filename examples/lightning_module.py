"""Trains a β-VAE with Lightning: the model and its loss are a LightningModule, the Trainer does everything else.

pip install lightning
python examples/lightning_module.py --steps 200
"""

import argparse

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from betavae_fast.data import load_dataset
from betavae_fast.integrations.lightning import CapacityLogger, LitBetaVAE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="dsprites")
    parser.add_argument("--images", type=int, default=10_000, help="train on the first so many images")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()

    lightning.seed_everything(0)
    data = load_dataset(args.data)
    images = data.gather(torch.arange(min(args.images, len(data))))  # bool or uint8: a quarter of the memory
    loader = DataLoader(TensorDataset(images), args.batch_size, shuffle=True, drop_last=True)
    module = LitBetaVAE(data.image_shape)
    trainer = lightning.Trainer(
        max_steps=args.steps,
        precision=module.auto_precision(args.batch_size),
        callbacks=CapacityLogger(),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    print({name: round(float(value), 2) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()

"""Trains a β-VAE with Accelerate, which runs the loop on any number of devices.

pip install accelerate
python examples/accelerate_loop.py --steps 200   # on several devices: accelerate launch instead of python
"""

import argparse
from itertools import chain, islice, repeat

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset

from betavae_fast import BetaVAE, BetaVAELoss
from betavae_fast.data import load_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="dsprites")
    parser.add_argument("--images", type=int, default=10_000, help="train on the first so many images")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64, help="images per step in each process")
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="no")
    args = parser.parse_args()

    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    set_seed(0, device_specific=True)  # every process draws its own noise
    data = load_dataset(args.data)
    images = data.gather(torch.arange(min(args.images, len(data))))  # bool or uint8: a quarter of the memory
    loader = DataLoader(TensorDataset(images), args.batch_size, shuffle=True, drop_last=True)
    model = BetaVAE(data.image_shape, latent_dim=10)
    criterion = BetaVAELoss(beta=4.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    epochs = chain.from_iterable(repeat(loader))
    for step, (x,) in enumerate(islice(epochs, args.steps), start=1):
        out = model(x)
        loss = criterion(out.decoded, x, out.kl)
        optimizer.zero_grad()
        accelerator.backward(loss.total)
        optimizer.step()
        if step % 50 == 0 or step == args.steps:
            accelerator.print(f"step {step}  loss {loss.total:.2f}  KL {loss.kl:.2f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()

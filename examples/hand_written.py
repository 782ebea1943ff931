"""Trains a β-VAE in a hand-written loop: a torch module, three lines of betavae_fast, an optimizer.

python examples/hand_written.py --steps 200
"""

import argparse

import torch
from torch import Tensor, nn

from betavae_fast import BetaVAELoss, GaussianLatent
from betavae_fast.data import load_dataset


class VAE(nn.Module):
    """A VAE of two layers each; any encoder works whose output is 2 × latent_dim numbers per image, means first."""

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        pixels = channels * height * width
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 400), nn.ReLU(), nn.Linear(400, 2 * latent_dim)
        )
        self.latent = GaussianLatent()
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 400), nn.ReLU(), nn.Linear(400, pixels), nn.Unflatten(1, image_shape)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, kl, _, _ = self.latent(self.encoder(x))
        return self.decoder(z), kl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="dsprites")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    data = load_dataset(args.data).to(args.device)
    model = VAE(data.image_shape, latent_dim=10).to(args.device)
    criterion = BetaVAELoss(beta=4.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    for step in range(1, args.steps + 1):
        x = data.gather(torch.randint(len(data), (args.batch_size,), device=args.device))  # bool or uint8
        logits, kl = model(x.float() if x.dtype == torch.bool else x / 255)
        loss = criterion(logits, x, kl)  # the target stays bool or uint8
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        if step % 50 == 0 or step == args.steps:
            print(
                f"step {step}  loss {loss.total:.2f}  reconstruction {loss.reconstruction:.2f}  KL {loss.kl:.2f}"
            )


if __name__ == "__main__":
    main()

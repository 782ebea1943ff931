"""What a training run is told. Kept free of heavy imports: the command line takes its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from betavae_fast.choices import Architecture, Likelihood


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's result, and how often it is written down.

    The defaults train on dSprites in under four minutes on two CPU cores.

    Raises: ValueError for a number out of its range, with the number.

    >>> TrainConfig(steps=0)
    Traceback (most recent call last):
    ValueError: steps must be at least 1, got 0
    """

    data: str = "dsprites"
    architecture: Architecture = "burgess"
    latent_dim: int = 10
    beta: float = 4.0
    likelihood: Likelihood = "bernoulli"
    batch_size: int = 64
    steps: int = 2500
    lr: float = 1e-3  # Adam's, constant
    seed: int = 0  # of the weights, the data order and the latent noise
    device: str = "auto"  # "auto": cuda where there is one, else cpu
    backend: str = "auto"  # of the latent layer
    threads: int | None = None  # None: as many as torch chooses
    log_every: int = 50  # steps
    checkpoint_every: int = 1000  # steps

    def __post_init__(self) -> None:
        for name in ("latent_dim", "batch_size", "steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")
        if not (isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"beta must be a finite number of at least 0, got {self.beta}")
        if not (isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a finite positive number, got {self.lr}")

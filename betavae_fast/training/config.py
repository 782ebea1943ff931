"""What a training run is told. Kept free of heavy imports: the command line takes its defaults from here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import isfinite
from typing import Literal, get_args

from betavae_fast.choices import (
    NEEDED_OPTIONS,
    OBJECTIVE_OPTIONS,
    Architecture,
    Estimator,
    Likelihood,
    LrSchedule,
    ObjectiveName,
    Precision,
)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's result, and how often it is written down.

    The defaults train on dSprites in under four minutes on two CPU cores.

    Raises: ValueError for a number out of its range, with the number.

    >>> TrainConfig(steps=0)
    Traceback (most recent call last):
    ValueError: steps must be at least 1, got 0
    """

    data: str = "dsprites"  # a name, or an absolute path
    image_size: int | None = None  # side to which a folder's images are resized; None: the data's own default
    channels: Literal[1, 3] | None = None  # grayscale or RGB; None: what a folder's images have
    architecture: Architecture = "burgess"
    latent_dim: int = 10
    likelihood: Likelihood = "bernoulli"
    objective: ObjectiveName = "beta"
    # The objectives' options: which belong to which is in choices.py. None: the objective's own default.
    beta: float = 4.0
    beta_warmup: int = 0  # steps over which beta grows linearly from 0
    beta_cycle: int = 0  # steps after which that starts again; 0: never
    capacity: float | None = None  # nats, at the end
    capacity_steps: int | None = None  # over which it grows
    capacity_weight: float | None = None
    free_bits: float | None = None  # nats per latent dim
    kl_limit: float | None = None  # nats
    reconstruction_limit: float | None = None  # nats per image
    multiplier_lr: float | None = None  # 1/nats
    constraint_decay: float | None = None  # of its moving average
    betas: list[float] | None = None  # one for each latent dim
    mi_weight: float | None = None
    tc_weight: float | None = None
    dimension_wise_weight: float | None = None
    tc_estimator: Estimator | None = None
    discriminator_lr: float | None = None
    off_diagonal_weight: float | None = None
    diagonal_weight: float | None = None
    batch_size: int | Literal["auto"] = 64  # images an update, of all processes; "auto": as many as fit
    accumulate: int = 1  # equal parts in which a process takes its share of a batch, one after the other
    steps: int = 2500
    lr: float = 1e-3  # Adam's
    lr_schedule: LrSchedule = "constant"  # "cosine": to 0 over ``steps``
    lr_warmup: int = 0  # steps over which the learning rate grows linearly to its schedule's
    clip_grad_norm: float | None = None  # the gradient is scaled down to this 2-norm; None: it is not
    seed: int = 0  # of the weights, the data order and the latent noise
    precision: Precision = "auto"  # of the networks; "auto": bf16 where the device computes in it, else fp32
    deterministic: bool = (
        True  # of cuDNN's convolutions on a GPU: the same bits from run to run, at some cost in speed
    )
    device: str = "auto"  # "auto": cuda where there is one, else cpu
    backend: str = "auto"  # of the latent layer and the likelihood
    threads: int | None = None  # None: as many as torch chooses
    log_every: int = 50  # steps
    checkpoint_every: int = 1000  # steps

    def __post_init__(self) -> None:
        for name in ("latent_dim", "accumulate", "steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 (grayscale) or 3 (RGB), got {self.channels}")
        for name in ("beta_warmup", "beta_cycle", "lr_warmup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise ValueError(
                f"batch_size must be a whole number of at least 1, or auto; got {self.batch_size}"
            )
        for name, choices in (
            ("lr_schedule", LrSchedule),
            ("precision", Precision),
            ("objective", ObjectiveName),
        ):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(choices))}; got {getattr(self, name)}"
                )
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")
        if not (isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"beta must be a finite number of at least 0, got {self.beta}")
        if not (isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a finite positive number, got {self.lr}")
        if self.clip_grad_norm is not None and not (
            isfinite(self.clip_grad_norm) and self.clip_grad_norm > 0
        ):
            raise ValueError(f"clip_grad_norm must be a finite positive number, got {self.clip_grad_norm}")
        check_objective_options(
            self.objective,
            (field.name for field in fields(self) if getattr(self, field.name) != field.default),
        )
        needed = NEEDED_OPTIONS.get(self.objective)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"objective {self.objective} needs {needed}")
        if self.betas is not None and len(self.betas) != self.latent_dim:
            raise ValueError(
                f"betas must be one for each of {self.latent_dim} latent dims, got {len(self.betas)}"
            )


def check_objective_options(objective: ObjectiveName, told: Iterable[str]) -> None:
    """ValueError if an option among ``told`` is of other objectives: it would change nothing, and so is a mistake."""
    own = OBJECTIVE_OPTIONS[objective]
    for name in told:
        others = [other for other, options in OBJECTIVE_OPTIONS.items() if name in options]
        if others and name not in own:
            raise ValueError(
                f"{name} is an option of objective {' and '.join(others)}, not of objective {objective}, "
                f"which has {', '.join(own)}"
            )

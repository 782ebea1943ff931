"""The configuration of a training run. It imports nothing heavy: the command line takes its defaults from here."""

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
    """All settings that decide a run's result, and the intervals at which it is logged and saved.

    The defaults train on dSprites in under four minutes on two CPU cores.

    Raises: ValueError, naming setting and value, for a value out of its range or an option of another objective.

    >>> TrainConfig(steps=0)
    Traceback (most recent call last):
    ValueError: steps must be at least 1, got 0
    """

    data: str = "dsprites"  # name of a data set, or an absolute path
    image_size: int | None = None  # side of the images in pixels; None: the data set's default
    channels: Literal[1, 3] | None = None  # 1: grayscale, 3: RGB; None: RGB if an image is coloured
    architecture: Architecture = "burgess"
    latent_dim: int = 10
    likelihood: Likelihood = "bernoulli"
    objective: ObjectiveName = "beta"
    # Options of the objectives; choices.py lists the objectives they belong to. None: the objective's default.
    beta: float = 4.0  # weight of the KL
    beta_warmup: int = 0  # steps over which beta grows linearly from 0
    beta_cycle: int = 0  # steps after which the warm-up starts again; 0: never
    capacity: float | None = None  # KL to hold at the end, in nats
    capacity_steps: int | None = None  # steps over which the capacity grows from 0
    capacity_weight: float | None = None  # weight γ of |KL − C|
    free_bits: float | None = None  # KL that costs nothing, in nats per latent dim
    kl_limit: float | None = None  # largest KL, in nats
    reconstruction_limit: float | None = None  # largest reconstruction loss, in nats per image
    multiplier_lr: float | None = None  # step size of the multiplier, in 1/nats
    constraint_decay: float | None = None  # decay of the constraint's moving average
    betas: list[float] | None = None  # weight of each latent dim's KL
    mi_weight: float | None = None
    tc_weight: float | None = None
    dimension_wise_weight: float | None = None
    tc_estimator: Estimator | None = None
    discriminator_lr: float | None = None
    off_diagonal_weight: float | None = None
    diagonal_weight: float | None = None
    batch_size: int | Literal["auto"] = 64  # images per update, in all processes; "auto": as many as fit
    accumulate: int = 1  # equal parts into which a process splits its share of a batch, to save memory
    steps: int = 2500
    lr: float = 1e-3  # learning rate of Adam
    lr_schedule: LrSchedule = "constant"  # "cosine": a half cosine down to 0 at ``steps``
    lr_warmup: int = 0  # steps over which the learning rate grows linearly to the schedule's
    clip_grad_norm: float | None = None  # 2-norm above which the gradient is scaled down to it
    seed: int = 0  # seed of the weights, the data order and the latent noise
    precision: Precision = "auto"  # "auto": bf16 if the device has matrix units for it, else fp32
    # Use cuDNN's deterministic convolutions on a GPU: the same bits in every run, at some cost in speed.
    deterministic: bool = True
    device: str = "auto"  # "auto": cuda if there is a GPU, else cpu
    backend: str = "auto"  # backend of the latent layer and the likelihood
    threads: int | None = None  # CPU threads; None: torch's choice
    log_every: int = 50  # steps between two log entries
    checkpoint_every: int = 1000  # steps between two checkpoints

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
                f"betas must have one weight for each of {self.latent_dim} latent dims, got {len(self.betas)}"
            )


def check_objective_options(objective: ObjectiveName, told: Iterable[str]) -> None:
    """Raise ValueError if ``told`` names an option of another objective: it would have no effect."""
    own = OBJECTIVE_OPTIONS[objective]
    for name in told:
        others = [other for other, options in OBJECTIVE_OPTIONS.items() if name in options]
        if others and name not in own:
            raise ValueError(
                f"{name} is an option of objective {' and '.join(others)}, not of objective {objective}, "
                f"which has {', '.join(own)}"
            )


def describe_objective(config: TrainConfig) -> str:
    """The objective and those of its options that are set."""
    told = {name: getattr(config, name) for name in OBJECTIVE_OPTIONS[config.objective]}
    options = (f"{name} {value}" for name, value in told.items() if value is not None)
    return f"objective {config.objective} ({', '.join(options) or 'defaults'})"

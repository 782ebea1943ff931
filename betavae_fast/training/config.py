"""The configuration of a training run. Nothing heavy is imported: the command line takes its options from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from betavae_fast import settings
from betavae_fast.choices import Architecture, Initialization, Likelihood, LrSchedule, Precision
from betavae_fast.objectives import options
from betavae_fast.objectives.options import BetaOptions, BetaPerDimOptions, ObjectiveOptions
from betavae_fast.settings import Setting, at_least, check_scale, positive
from betavae_fast.training import recipes

RESUMABLE = (
    "data",
    "factors",
    "steps",
    "lr",
    "threads",
    "device",
    "log_every",
    "checkpoint_every",
    "validation",
    "patience",
)
"""The settings that may change when a run is resumed."""
OF_THE_MACHINE = ("threads", "device", "backend", "log_every", "checkpoint_every")
"""The settings that say how a run is computed and kept, not what it learns."""


def _channels(name: str, value: int) -> None:
    if value not in (1, 3):
        raise ValueError(f"{name} must be 1 (grayscale) or 3 (RGB), got {value}")


def _batch_size(name: str, value: int | str) -> None:
    if value != "auto" and not (isinstance(value, int) and value >= 1):
        raise ValueError(f"{name} must be a whole number of at least 1, or auto; got {value}")


def _number_or_auto(name: str, text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise ValueError(f"{name} must be a whole number or auto, got {text!r}") from None


def _validation(name: str, value: float | str) -> None:
    if not (value if isinstance(value, str) else 0 < value < 1):
        raise ValueError(f"{name} must be a fraction above 0 and below 1, or a path; got {value!r}")


def _fraction_or_path(name: str, text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _seed(name: str, value: int) -> None:
    if not 0 <= value < 2**63:
        raise ValueError(f"{name} must be in [0, 2^63), got {value}")


@dataclass(frozen=True)
class TrainConfig:
    """All settings that decide a run's result, and the intervals at which it is logged and saved.

    The defaults train on dSprites in under four minutes on two CPU cores.

    Raises: ValueError, naming setting and value, for a value out of its range.

    >>> from betavae_fast.objectives.options import CapacityOptions
    >>> TrainConfig(objective=CapacityOptions(25.0, steps=2000), steps=2500).objective.gamma
    1000.0
    >>> TrainConfig(steps=0)
    Traceback (most recent call last):
    ValueError: steps must be at least 1, got 0
    """

    data: Annotated[
        str,
        Setting(
            "dsprites, mnist, fashion-mnist, or the path of an image folder, an .npy/.npz array, or a published set: "
            "3dshapes.h5, MPI3D's .npz, the folder of smallNORB, Cars3D or CelebA."
        ),
    ] = "dsprites"
    factors: Annotated[
        str | None,
        Setting(
            "File of the images' factors, by which disentanglement is measured: .csv with a line of names, .npy or .npz.",
            default_in_words="those that the data come with, if any",
        ),
    ] = None
    image_size: Annotated[
        int | None,
        Setting(
            "Side of the images in pixels: a folder's are resized, an idx file's get a border.",
            at_least(1),
            default_in_words="64 for a folder, 32 for MNIST",
        ),
    ] = None
    channels: Annotated[
        int | None,
        Setting(
            "Channels of a folder's images: 1 for grayscale, 3 for RGB.",
            _channels,
            default_in_words="RGB if one is coloured",
        ),
    ] = None
    architecture: Annotated[Architecture, Setting("Encoder and decoder.")] = "burgess"
    latent_dim: Annotated[int, Setting("Number of latent channels.", at_least(1))] = 10
    initialization: Annotated[Initialization, Setting("Rule for the initial weights.")] = "torch"
    likelihood: Annotated[Likelihood, Setting("Likelihood of the pixels.")] = "bernoulli"
    scale: Annotated[
        float,
        Setting(
            "Width of a Gaussian or Laplace likelihood of pixels in [0, 1]. A tenth weighs pixels 100 times as much.",
            positive,
        ),
    ] = 1.0
    objective: ObjectiveOptions = field(default_factory=BetaOptions)
    batch_size: Annotated[
        int | Literal["auto"],
        Setting(
            "Images per step, in all processes; or auto: as many as fit in memory.",
            _batch_size,
            parse=_number_or_auto,
            metavar="INTEGER|auto",
        ),
    ] = 64
    accumulate: Annotated[
        int,
        Setting("Equal parts of a batch, computed one after the other to save memory.", at_least(1)),
    ] = 1
    steps: Annotated[int, Setting("Training steps.", at_least(1))] = 2500
    lr: Annotated[float, Setting("Adam's learning rate.", positive)] = 1e-3
    lr_schedule: Annotated[
        LrSchedule, Setting("Learning rate over the run; cosine: falls to 0 at the last step.")
    ] = "constant"
    lr_hold: Annotated[int, Setting("Steps before a cosine begins.", at_least(0))] = 0
    lr_warmup: Annotated[int, Setting("Steps over which the learning rate grows linearly.", at_least(0))] = 0
    clip_grad_norm: Annotated[
        float | None,
        Setting("Scale a gradient with a larger norm down to this one.", positive, default_in_words="never"),
    ] = None
    seed: Annotated[int, Setting("Seed of the weights, the data order and the noise.", _seed)] = 0
    precision: Annotated[
        Precision,
        Setting(
            "Precision of the networks; auto: on a CPU the faster one, measured at the start, on a GPU bf16 if it has "
            "matrix units for it."
        ),
    ] = "auto"
    deterministic: Annotated[
        bool,
        Setting("Use convolutions on a GPU that give the same bits in every run, not the fastest ones."),
    ] = True
    threads: Annotated[
        int | None, Setting("CPU threads.", at_least(1), default_in_words="torch's choice")
    ] = None
    device: Annotated[str, Setting("auto, cpu, cuda, cuda:1, ...")] = "auto"
    backend: Annotated[str, Setting("Backend of the fused operations; see the info command.")] = "auto"
    log_every: Annotated[int, Setting("Steps between two log entries.", at_least(1))] = 50
    checkpoint_every: Annotated[int, Setting("Steps between two checkpoints.", at_least(1))] = 1000
    validation: Annotated[
        float | str | None,
        Setting(
            "Images that are never trained on: a fraction of the data, chosen by the seed, or another data set of the "
            "same shape, as --data names it.",
            _validation,
            default_in_words="none",
            parse=_fraction_or_path,
            metavar="FRACTION|PATH",
        ),
    ] = None
    validation_every: Annotated[
        int | None,
        Setting(
            "Steps between two validations; the last step is validated, too.",
            at_least(1),
            default_in_words="500",
        ),
    ] = None
    patience: Annotated[
        int | None,
        Setting(
            "Stop after this many validations in a row without a lower loss (−ELBO).",
            at_least(1),
            default_in_words="take all steps",
        ),
    ] = None

    def __post_init__(self) -> None:
        settings.check(self)
        check_scale(self.likelihood, self.scale)
        for name in ("validation_every", "patience"):
            if self.validation is None and (value := getattr(self, name)) is not None:
                raise ValueError(f"{name} is {value}, so validation must be given")
        if self.lr_hold and self.lr_schedule != "cosine":
            raise ValueError(
                f"lr_hold is {self.lr_hold}, so lr_schedule must be cosine, got {self.lr_schedule}"
            )
        if type(self.objective) not in options.OBJECTIVES.values():
            raise TypeError(
                f"objective must be the options of one, such as BetaOptions(), got {self.objective!r:.60}"
            )
        if isinstance(self.objective, BetaPerDimOptions):
            weights = len(self.objective.betas)
            if weights != self.latent_dim:
                raise ValueError(
                    f"betas must have one weight for each of {self.latent_dim} latent dims, got {weights}"
                )

    def describe_likelihood(self) -> str:
        """The likelihood in words, with its scale if it is not 1.

        >>> TrainConfig(likelihood="gaussian", scale=0.1).describe_likelihood()
        'gaussian of scale 0.1'
        """
        return self.likelihood if self.scale == 1.0 else f"{self.likelihood} of scale {self.scale:g}"

    def entries(self) -> dict[str, Any]:
        """All settings by their names on the command line, as config.json holds them.

        >>> TrainConfig().entries()["beta_warmup"]
        0
        """
        own = vars(self) | {"objective": self.objective.objective}
        return own | options.entries(self.objective)

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> TrainConfig:
        """The configuration with these ``entries``. Entries of None and the options of other objectives are ignored.

        Raises: ValueError as the constructor does; TypeError for an unknown name.
        """
        own = {name: value for name, value in entries.items() if value is not None}
        objective = own.pop("objective", BetaOptions.objective)
        found = {
            option: (own.pop(option), declared)
            for option, declared in options.by_option().items()
            if option in own
        }
        given = {option: value for option, (value, declared) in found.items() if objective in declared}
        return cls(objective=options.make_options(objective, given), **own)

    @classmethod
    def from_recipe(cls, name: str, **changes: Any) -> TrainConfig:
        """The configuration of a recipe (:mod:`betavae_fast.training.recipes`).

        Args:
            changes: settings that replace the recipe's, as the constructor takes them. An ``objective`` replaces the
                recipe's with all its options.
        Raises: ValueError for an unknown recipe, or as the constructor does; TypeError for an unknown setting.

        >>> config = TrainConfig.from_recipe("burgess-2018", seed=3)
        >>> config.objective.capacity, config.lr, config.seed
        (25.0, 0.0005, 3)
        """
        return replace(cls.from_entries(recipes.entries(name)), **changes)

    def describe_objective(self) -> str:
        """The objective and its options in words, without those that are off by default and were left so.

        >>> TrainConfig().describe_objective()
        'objective beta (beta 4.0)'
        """
        values = ", ".join(
            f"{found.option} {value}"
            for found in settings.declared(type(self.objective))
            if (value := getattr(self.objective, found.name)) or found.default
        )
        return f"objective {self.objective.objective} ({values})"

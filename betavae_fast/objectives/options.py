"""The options of each objective: name, type, default, range and help, with the paper that proposes it.

The objectives' classes, ``TrainConfig``, the command line and the documentation take them from here. Nothing heavy is
imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, MISSING, dataclass
from typing import Annotated, Any, ClassVar

from betavae_fast import settings
from betavae_fast.choices import Estimator
from betavae_fast.settings import Declared, Setting, at_least, finite, fraction, not_negative, positive


@dataclass
class ObjectiveOptions:
    """The base class of all options. Raises: ValueError for an option out of its range."""

    objective: ClassVar[str]
    """The name of the objective."""
    paper: ClassVar[str]
    """The publication that proposes it."""

    def __post_init__(self) -> None:
        # Ask the class that declares the options: annotations of subclasses, objectives among them, may be anything.
        kind = next(
            kind for kind in type(self).__mro__ if "objective" in vars(kind) or kind is ObjectiveOptions
        )
        settings.check(self, kind)


def _check_fall(name: str, start: float | None, hold: int, steps: int) -> None:
    """Check the options, which begin with ``name``, of a weight that falls as in ``schedules.geometric``."""
    if start is None:
        for option, value in (("hold", hold), ("steps", steps)):
            if value:
                raise ValueError(f"{name}_{option} is {value}, but there is no {name}_start")
    elif steps < 1:
        raise ValueError(f"{name}_start is {start}, so {name}_steps must be at least 1, got {steps}")


@dataclass
class BetaOptions(ObjectiveOptions):
    objective = "beta"
    paper = "Higgins et al. 2017, equation 4; published β = 4 for dSprites"

    beta: Annotated[float, Setting("Weight of the KL; 1 is the evidence lower bound.", not_negative)] = 4.0
    _: KW_ONLY
    warmup: Annotated[
        int, Setting("Steps over which β grows linearly from 0.", at_least(0), "beta_warmup")
    ] = 0
    cycle: Annotated[
        int,
        Setting("Steps after which the warm-up starts again; 0: never.", at_least(0), "beta_cycle"),
    ] = 0
    start: Annotated[
        float | None,
        Setting(
            "β at the start, from which it falls by the same factor in each step.",
            positive,
            "beta_start",
            default_in_words="β",
        ),
    ] = None
    hold: Annotated[int, Setting("Steps before β falls from its start.", at_least(0), "beta_hold")] = 0
    steps: Annotated[int, Setting("Steps over which β falls from its start.", at_least(0), "beta_steps")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fall("beta", self.start, self.hold, self.steps)
        if self.start is not None and not self.beta > 0:
            raise ValueError(f"beta_start is {self.start}, so beta must be above 0, got {self.beta}")
        if self.start is not None and self.warmup:
            raise ValueError(f"give beta_start or beta_warmup, not both; got {self.start} and {self.warmup}")
        if self.cycle and not 0 < self.warmup <= self.cycle:
            raise ValueError(
                f"a cycle of {self.cycle} steps needs a warmup of 1 to {self.cycle}, got {self.warmup}"
            )


@dataclass
class CapacityOptions(ObjectiveOptions):
    objective = "capacity"
    paper = (
        "Burgess et al. 2018, arXiv:1804.03599, equation 8; the defaults are the published ones, for dSprites"
    )

    capacity: Annotated[float, Setting("KL to hold at the end, in nats.", not_negative)] = 25.0
    _: KW_ONLY
    steps: Annotated[
        int, Setting("Steps over which the capacity grows from 0.", at_least(0), "capacity_steps")
    ] = 100_000
    gamma: Annotated[
        float, Setting("Weight γ of the distance |KL − C|.", not_negative, "capacity_weight")
    ] = 1000.0


@dataclass
class FreeBitsOptions(ObjectiveOptions):
    objective = "free-bits"
    paper = "Kingma et al. 2016, arXiv:1606.04934, appendix C.8; published values: 0.125 to 2"

    free_bits: Annotated[
        float, Setting("Nats (not bits, despite the name) per channel that cost nothing.", not_negative)
    ] = 0.25


_MULTIPLIER_LR = Setting("Step size of the multiplier, in 1/nats.", positive, "multiplier_lr")


@dataclass
class LagrangianOptions(ObjectiveOptions):
    objective = "lagrangian"
    paper = "Higgins et al. 2017, equations 2 and 3; no step size is published"

    kl_limit: Annotated[float, Setting("Upper limit of the KL, in nats.", positive)]
    _: KW_ONLY
    lr: Annotated[float, _MULTIPLIER_LR] = 0.01


@dataclass
class GecoOptions(ObjectiveOptions):
    objective = "geco"
    paper = (
        "Rezende & Viola 2018, arXiv:1810.00597, algorithm 1; "
        "the step size is that of Engelcke et al. 2020, arXiv:1907.13052, for 64×64 images"
    )

    reconstruction_limit: Annotated[
        float, Setting("Upper limit of the reconstruction loss, in nats per image.", finite)
    ]
    _: KW_ONLY
    lr: Annotated[float, _MULTIPLIER_LR] = 1e-5
    decay: Annotated[
        float, Setting("Decay of the constraint's moving average.", fraction, "constraint_decay")
    ] = 0.99


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be numbers with commas between them, got {text!r}") from None


def _each_not_negative(name: str, values: list[float]) -> None:
    for value in values:
        not_negative(f"each of {name}", value)


@dataclass
class BetaPerDimOptions(ObjectiveOptions):
    objective = "beta-per-dim"
    paper = "Higgins et al. 2017, equation 4, with one β for each latent dim"

    betas: Annotated[
        list[float],
        Setting(
            "Weight of each channel's KL.", _each_not_negative, parse=_numbers, metavar="FLOAT,FLOAT,..."
        ),
    ]


@dataclass(kw_only=True)
class BetaTCOptions(ObjectiveOptions):
    objective = "btcvae"
    paper = (
        "Chen et al. 2018, arXiv:1802.04942, equation 4; the defaults are the published ones, for dSprites"
    )

    beta: Annotated[float, Setting("Weight of the total correlation.", not_negative, "tc_weight")] = 6.0
    alpha: Annotated[float, Setting("Weight of the mutual information.", not_negative, "mi_weight")] = 1.0
    gamma: Annotated[
        float, Setting("Weight of the dimension-wise KL.", not_negative, "dimension_wise_weight")
    ] = 1.0
    estimator: Annotated[
        Estimator, Setting("Minibatch weighted (mws) or stratified sampling.", option="tc_estimator")
    ] = "mws"
    start: Annotated[
        float | None,
        Setting(
            "Multiple of all three weights at the start, which falls to 1 by the same factor in each step.",
            positive,
            "weights_start",
            default_in_words="1",
        ),
    ] = None
    hold: Annotated[int, Setting("Steps before the weights fall.", at_least(0), "weights_hold")] = 0
    steps: Annotated[int, Setting("Steps over which the weights fall.", at_least(0), "weights_steps")] = 0
    tc_start: Annotated[
        float | None,
        Setting(
            "Further factor of tc_weight at the start, which falls to 1 from the same step on.",
            positive,
            default_in_words="1",
        ),
    ] = None
    tc_steps: Annotated[int, Setting("Steps over which this factor falls.", at_least(0))] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fall("weights", self.start, self.hold, self.steps)
        _check_fall("tc", self.tc_start, 0, self.tc_steps)
        if self.tc_start is not None and self.start is None:
            raise ValueError(f"tc_start is {self.tc_start}, but there is no weights_start")


@dataclass(kw_only=True)
class FactorVAEOptions(ObjectiveOptions):
    objective = "factorvae"
    paper = (
        "Kim & Mnih 2018, arXiv:1802.05983, equation 2 and algorithm 2; the defaults are the published ones"
    )

    gamma: Annotated[float, Setting("Weight of the total correlation.", not_negative, "tc_weight")] = 35.0
    lr: Annotated[float, Setting("Learning rate of the discriminator.", positive, "discriminator_lr")] = 1e-4


_OFF_DIAGONAL = Setting("Weight of the squared covariances.", not_negative, "off_diagonal_weight")
_DIAGONAL = Setting(
    "Weight of the squared differences of the variances from 1.", not_negative, "diagonal_weight"
)


@dataclass(kw_only=True)
class DIPVAEIOptions(ObjectiveOptions):
    objective = "dipvae-i"
    paper = (
        "Kumar et al. 2018, arXiv:1711.00848, equation 6; the defaults are the published ones, for dSprites"
    )

    off_diagonal: Annotated[float, _OFF_DIAGONAL] = 10.0
    diagonal: Annotated[float, _DIAGONAL] = 100.0


@dataclass(kw_only=True)
class DIPVAEIIOptions(ObjectiveOptions):
    objective = "dipvae-ii"
    paper = (
        "Kumar et al. 2018, arXiv:1711.00848, equation 7; the defaults are the published ones, for dSprites"
    )

    off_diagonal: Annotated[float, _OFF_DIAGONAL] = 10.0
    diagonal: Annotated[float, _DIAGONAL] = 10.0


OBJECTIVES: dict[str, type[ObjectiveOptions]] = {
    kind.objective: kind
    for kind in (
        BetaOptions,
        CapacityOptions,
        FreeBitsOptions,
        LagrangianOptions,
        GecoOptions,
        BetaPerDimOptions,
        BetaTCOptions,
        FactorVAEOptions,
        DIPVAEIOptions,
        DIPVAEIIOptions,
    )
}
"""The options of each objective, by its name."""


def by_option() -> dict[str, dict[str, Declared]]:
    """All settings by their names on the command line, and for each name by the objectives that have it.

    >>> list(by_option()["tc_weight"])
    ['btcvae', 'factorvae']
    """
    found: dict[str, dict[str, Declared]] = {}
    for objective, kind in OBJECTIVES.items():
        for declared in settings.declared(kind):
            found.setdefault(declared.option, {})[objective] = declared
    return found


def make_options(objective: str, given: Mapping[str, Any]) -> ObjectiveOptions:
    """Make the options of ``objective`` from values by their names on the command line; the others keep their defaults.

    Raises: ValueError for an unknown objective, an option that is missing, out of its range or another objective's.

    >>> make_options("capacity", {"capacity_steps": 1000})
    CapacityOptions(capacity=25.0, steps=1000, gamma=1000.0)
    """
    if objective not in OBJECTIVES:
        meant = settings.did_you_mean(objective, OBJECTIVES)
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}; got {objective!r}{meant}")
    own = {declared.option: declared for declared in settings.declared(OBJECTIVES[objective])}
    for option in given.keys() - own.keys():
        others = " and ".join(by_option().get(option, ())) or "none"
        raise ValueError(
            f"{option} is an option of objective {others}, not of objective {objective}, which has {', '.join(own)}"
        )
    for option, declared in own.items():
        if option in given:
            settings.check_value(declared, option, given[option])
        elif declared.default is MISSING:
            raise ValueError(f"objective {objective} needs {option}")
    return OBJECTIVES[objective](**{own[option].name: value for option, value in given.items()})


def entries(options: ObjectiveOptions) -> dict[str, Any]:
    """The values of ``options`` by their names on the command line.

    >>> entries(LagrangianOptions(kl_limit=12.0))
    {'kl_limit': 12.0, 'multiplier_lr': 0.01}
    """
    return {found.option: getattr(options, found.name) for found in settings.declared(type(options))}

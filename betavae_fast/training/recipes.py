"""Protocols by name: the settings of published runs, each with its source, and one of this library's own.

A recipe is data. To add one, add an entry to ``RECIPES``. Nothing heavy is imported: ``--help`` needs no torch.

>>> entries("burgess-2018")["lr"]
0.0005
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from betavae_fast.objectives import options
from betavae_fast.settings import did_you_mean, flag


class Sourced(NamedTuple):
    """The value of a setting, and where it is published, or why it was chosen."""

    value: Any
    source: str


@dataclass(frozen=True)
class Recipe:
    """A protocol.

    Attributes:
        name: its name on the command line.
        source: the publication, and the code that was read, with its commit.
        settings: the values by their names on the command line; the other settings keep their defaults.
        reaches: the result: which metric, over how many seeds.
        differs: what a published protocol has and this library has not.
    """

    name: str
    source: str
    settings: Mapping[str, Sourced]
    reaches: str
    differs: str


_DLIB = "disentanglement_lib, unsupervised_study_v1/model_configs/shared.gin"
_DLIB_GRID = "disentanglement_lib, unsupervised_study_v1/sweep.py"
_CHEN = "vae_quant.py"

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "burgess-2018",
            source="Burgess et al. 2018, arXiv:1804.03599; google-research/disentanglement_lib at 86a644d for what the "
            "paper leaves open",
            settings={
                "data": Sourced("dsprites", "section 5"),
                "architecture": Sourced("burgess", "appendix A.1"),
                "latent_dim": Sourced(10, "appendix A.1"),
                "likelihood": Sourced("bernoulli", "appendix A.1"),
                "objective": Sourced("capacity", "equation 8"),
                "capacity": Sourced(25.0, "appendix A.2, for dSprites"),
                "capacity_steps": Sourced(100_000, "appendix A.2"),
                "capacity_weight": Sourced(1000.0, "appendix A.2"),
                "lr": Sourced(5e-4, "appendix A.1"),
                "batch_size": Sourced(64, f"not published; {_DLIB}"),
                "steps": Sourced(300_000, f"not published; {_DLIB}"),
            },
            reaches="No score is published. The paper shows traversals in which position, scale, shape and orientation "
            "have channels of their own.",
            differs="The encoder gives log σ there and log σ² here. Adam's other settings and the initial weights are "
            "not published.",
        ),
        Recipe(
            "locatello-2019",
            source="Locatello et al. 2019, arXiv:1811.12359; google-research/disentanglement_lib at 86a644d",
            settings={
                "data": Sourced("dsprites", f"{_DLIB}; one of seven data sets"),
                "architecture": Sourced("locatello", "table 1"),
                "initialization": Sourced("glorot", "methods/shared/architectures.py: TensorFlow's default"),
                "latent_dim": Sourced(10, _DLIB),
                "likelihood": Sourced("bernoulli", _DLIB),
                "objective": Sourced("beta", f"{_DLIB_GRID}; one of six methods"),
                "beta": Sourced(4.0, f"{_DLIB_GRID}; one of 1, 2, 4, 6, 8, 16"),
                "lr": Sourced(1e-4, _DLIB),
                "batch_size": Sourced(64, _DLIB),
                "steps": Sourced(300_000, _DLIB),
            },
            reaches="The scores of 36 settings with 50 seeds each are published as violin plots, without a table of "
            "means.",
            differs="--objective chooses one of the other methods: `capacity`, `btcvae`, `dipvae-i` and `dipvae-ii` have "
            "a setting of the study by default, `factorvae` needs --tc-weight 10, 20, 30, 40, 50 or 100. β-TCVAE and the "
            "data of the discriminator are defined otherwise there, as the page of differences says. Mean and "
            "log-variance are two layers there and one here, whose initial weights are 2% smaller.",
        ),
        Recipe(
            "chen-2018",
            source="Chen et al. 2018, arXiv:1802.04942; rtqichen/beta-tcvae at 1a3577d",
            settings={
                "data": Sourced("dsprites", f"{_CHEN}, --dataset"),
                "architecture": Sourced(
                    "mlp", f"{_CHEN}, MLPEncoder and MLPDecoder; README.md: for dSprites"
                ),
                "initialization": Sourced("torch", f"{_CHEN}: PyTorch's default"),
                "latent_dim": Sourced(10, f"{_CHEN}, --latent-dim"),
                "likelihood": Sourced("bernoulli", f"{_CHEN}, class VAE"),
                "objective": Sourced("btcvae", "README.md, --tcvae"),
                "tc_weight": Sourced(6.0, "README.md, --beta"),
                "mi_weight": Sourced(1.0, "equation 4, α"),
                "dimension_wise_weight": Sourced(1.0, "equation 4, γ"),
                "tc_estimator": Sourced("mws", f"{_CHEN}, without --mss"),
                "lr": Sourced(1e-3, f"{_CHEN}, --learning-rate"),
                "batch_size": Sourced(2048, f"{_CHEN}, --batch-size"),
                "steps": Sourced(18_000, f"{_CHEN}, --num-epochs: 50 epochs of 360 batches"),
            },
            reaches="The distribution of MIG over initial weights is published as a figure, without a table. A reader of "
            "the code reports about .50 for one model, from sampled codes and without shape as a factor (issue 64 of "
            "YannDubs/disentangling-vae). One run in bfloat16 here, with seed 0, has .38 when counted like that, and .30 "
            "from mean codes over all five factors.",
            differs="The encoder gives log σ there and log σ² here. The command of README.md does not anneal, so this "
            "recipe does not; the code can let the weight grow over 7,000 steps.",
        ),
        Recipe(
            "kim-mnih-2018",
            source="Kim & Mnih 2018, arXiv:1802.05983; google-research/disentanglement_lib at 86a644d, which takes its "
            "settings over",
            settings={
                "data": Sourced("dsprites", "section 5"),
                "architecture": Sourced("locatello", "appendix A, with other kernels and widths"),
                "latent_dim": Sourced(10, "appendix A"),
                "likelihood": Sourced("bernoulli", "section 5"),
                "objective": Sourced("factorvae", "equation 2"),
                "tc_weight": Sourced(35.0, "section 5, for dSprites"),
                "discriminator_lr": Sourced(1e-4, f"appendix A; {_DLIB}"),
                "lr": Sourced(1e-4, f"appendix A; {_DLIB}"),
                "batch_size": Sourced(64, f"appendix A; {_DLIB}"),
                "steps": Sourced(300_000, f"appendix A; {_DLIB}"),
            },
            reaches="FactorVAE score around .82, the best mean over 10 seeds in section 5, against around .73 of a β-VAE "
            "with β = 4, both at a reconstruction of around 45 nats.",
            differs="The network is the nearest one here. Theirs has 4×4 kernels in all convolutions, where `locatello` "
            "has 2×2 in two, and fully connected layers of 128 units instead of 256. The discriminator learns from a "
            "second batch there and from the second half of the batch here. The "
            "initial weights are not published.",
        ),
        Recipe(
            "dsprites",
            source="this library; found by trials on other seeds than those measured",
            settings={
                "data": Sourced("dsprites", "chosen for it"),
                "architecture": Sourced("burgess", "the network of most published runs on dSprites"),
                "initialization": Sourced("kaiming", "leaves the mean image within 400 steps"),
                "latent_dim": Sourced(10, "as published"),
                "likelihood": Sourced("bernoulli", "as published"),
                "objective": Sourced(
                    "btcvae", "at its end it is a β-VAE with β = 4, because its three weights are equal"
                ),
                "mi_weight": Sourced(4.0, "β = 4"),
                "tc_weight": Sourced(4.0, "β = 4"),
                "dimension_wise_weight": Sourced(4.0, "β = 4"),
                "weights_start": Sourced(10.0, "β = 40, at which only posX and posY are worth their nats"),
                "weights_hold": Sourced(1400, "in this time the channels of posX and posY turn to the axes"),
                "weights_steps": Sourced(2200, "scale opens a channel of its own at β of about 20"),
                "tc_start": Sourced(
                    6.0,
                    "turns the first channels to the axes; with 3, some seeds are still turned when β falls",
                ),
                "tc_steps": Sourced(300, "a high weight would keep the channel of scale shut"),
                "lr": Sourced(2e-3, "higher rates can end with a KL of 0"),
                "lr_warmup": Sourced(300, "so that the KL does not fall to 0 in the first steps"),
                "lr_schedule": Sourced("cosine", "improves the reconstruction at the end"),
                "lr_hold": Sourced(3400, "channels open while the rate is high"),
                "batch_size": Sourced(64, "as published"),
                "steps": Sourced(5400, "2 min 41 s in bfloat16 on two cores of Zen 4"),
            },
            reaches="Over ten seeds that the trials had not seen, in bfloat16, the median MIG is .33 and the worst .32. "
            "With each, posX, posY and scale have a channel that knows at least 47% of the factor's entropy, and no "
            "other channel knows more than 13%. In float32, the same seeds reach .29 to .37, with a median of .33.",
            differs="Nothing: it is not a published protocol.",
        ),
    )
}
"""The recipes, by name."""


def entries(name: str, objective: str | None = None) -> dict[str, Any]:
    """The values of the recipe ``name`` by their names on the command line.

    Args:
        objective: the objective to train. If it is not the recipe's, the options of the recipe's objective are left out,
            and this one's keep their defaults.
    Raises: ValueError for an unknown recipe.

    >>> entries("chen-2018", "beta")["batch_size"], "tc_weight" in entries("chen-2018", "beta")
    (2048, False)
    >>> entries("chan")
    Traceback (most recent call last):
    ValueError: recipe must be one of burgess-2018, locatello-2019, chen-2018, kim-mnih-2018, dsprites; got 'chan'
    """
    if name not in list(RECIPES):  # a list, so that a name of an unhashable type is no TypeError
        raise ValueError(
            f"recipe must be one of {', '.join(RECIPES)}; got {name!r}{did_you_mean(name, RECIPES)}"
        )
    values = {setting: sourced.value for setting, sourced in RECIPES[name].settings.items()}
    if objective is None or objective == values["objective"]:
        return values
    kept = {setting: value for setting, value in values.items() if setting not in options.by_option()}
    return kept | {"objective": objective}


def applied(given: Mapping[str, Any]) -> dict[str, Any]:
    """``given``, settings by their names on the command line, over those of the recipe that they name, if they name one.

    Raises: ValueError for an unknown recipe.

    >>> settings = applied({"recipe": "burgess-2018", "lr": 1e-3})
    >>> settings["lr"], settings["objective"], "recipe" in settings
    (0.001, 'capacity', False)
    """
    own = dict(given)
    name = own.pop("recipe", None)
    return own if name is None else entries(name, own.get("objective")) | own


def describe(given: Mapping[str, Any]) -> str | None:
    """The recipe that ``given`` names, with the settings in which ``given`` departs from it; None if it names none.

    >>> describe({"recipe": "burgess-2018", "lr": 1e-3, "batch_size": 64, "threads": 2})
    'burgess-2018, but --lr 0.001 instead of 0.0005'
    """
    own = dict(given)
    name = own.pop("recipe", None)
    if name is None:
        return None
    settings = RECIPES[name].settings
    changed = [
        f"{flag(setting)} {value} instead of {settings[setting].value}"
        for setting, value in own.items()
        if setting in settings and value != settings[setting].value
    ]
    return f"{name}, but {', '.join(changed)}" if changed else str(name)

"""Writes model cards: what a trained run has learned, how it was trained, and how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from betavae_fast.files import read_json
from betavae_fast.nn.pretrained import header, how_to_load
from betavae_fast.settings import flag
from betavae_fast.training.config import OF_THE_MACHINE, TrainConfig
from betavae_fast.training.run_folder import RunFolder, read_config
from betavae_fast.training.trained_run import TrainedRun


def model_card(folder: RunFolder, path: str) -> str:
    """The card of an evaluated run, as Markdown.

    Args:
        path: the path of the published folder, for the commands on the card.
    Raises: FileNotFoundError if the run is not evaluated; RunFileError if its configuration is damaged.
    """
    config, found = read_config(folder), read_json(folder.evaluation)
    return "\n".join(
        (
            f"# {found['data']}: {config.architecture}, {config.objective.objective}",
            "",
            *_learned(found),
            *_recipe(config, found["step"]),
            "To look at it and to measure it again:",
            "",
            "```sh",
            f"betavae-fast traverse {path} --out traversal",
            f"betavae-fast evaluate {path} --out evaluation",
            "```",
            "",
        )
    )


def hub_card(run: TrainedRun, license: str | None, pictures: Sequence[str]) -> str:
    """The card of a run for the Hugging Face Hub, as Markdown after a header of YAML.

    It names the data without their folder, because a path is of no use on another machine.

    Args:
        license: the Hub's name of the licence; None for none.
        pictures: paths of pictures to show, relative to the card.
    Raises: ValueError if the run was evaluated after another step than the model's.
    """
    found: dict[str, Any] | None = None
    if run.folder.evaluation.exists():
        found = read_json(run.folder.evaluation)
        if found["step"] != run.step:
            raise ValueError(
                f"{run.folder.evaluation}: of step {found['step']}, but the model is of step {run.step}; "
                "evaluate the run again"
            )
    data = Path(run.config.data).name
    return "\n".join(
        (
            *header(license),
            f"# {data}: {run.config.architecture}, {run.config.objective.objective}",
            "",
            *how_to_load(run.model),
            *(_learned(found) if found else ()),
            *_recipe(replace(run.config, data=data), run.step),
            *(line for picture in pictures for line in (f"![{Path(picture).stem}]({picture})", "")),
        )
    )


def _learned(found: dict[str, Any]) -> Iterable[str]:
    """The findings, the losses and the scores of an evaluation."""
    summary = found["summary"]
    loss = {
        "reconstruction at the mean code": summary["reconstruction"],
        "reconstruction at a sampled code": summary["sampled_reconstruction"],
        "KL": summary["kl"],
        "−ELBO": summary["negative_elbo"],
        "reconstruction of the mean image": summary["mean_image_reconstruction"],
    }
    return (
        *(f"- {sentence}" for sentence in found["findings"]),
        "",
        "| nats an image | |",
        "| --- | ---: |",
        *(f"| {name} | {value:.1f} |" for name, value in loss.items()),
        "",
        "| score | mean codes | sampled codes |",
        "| --- | ---: | ---: |",
        *_scores(found["scores"]),
        "",
        f"The scores are of {found['images']:,} images, with their definitions in Locatello et al. 2019 "
        "(arXiv:1811.12359).",
        "",
    )


def _recipe(config: TrainConfig, step: int) -> Iterable[str]:
    """The training up to ``step``, and the command that repeats it."""
    images = step * int(config.batch_size)
    return (
        f"It was trained for {step:,} steps on {images:,} images:",
        "",
        "```sh",
        command(config),
        "```",
        "",
    )


def command(config: TrainConfig) -> str:
    """The command line that trains a run with ``config``: the settings that are not the defaults.

    >>> command(TrainConfig.from_entries({"beta": 1.0, "steps": 100}))
    'betavae-fast train --steps 100 --beta 1.0'
    """
    defaults = TrainConfig.from_entries({"objective": config.objective.objective}).entries()
    given = {
        name: value
        for name, value in config.entries().items()
        if name not in OF_THE_MACHINE and value is not None
        if value != defaults[name] or (name == "objective" and value != "beta")
    }
    return " ".join(["betavae-fast train", *map(_option, given, given.values())])


def _option(name: str, value: object) -> str:
    option = flag(name)
    if isinstance(value, bool):
        return option if value else option.replace("--", "--no-")
    return f"{option} {','.join(map(str, value)) if isinstance(value, list) else value}"


def _scores(scores: Sequence[dict[str, Any]]) -> Iterable[str]:
    """A row for each number of each metric, of mean and of sampled codes."""
    from betavae_fast.evaluation.scores import METRICS, Estimate  # loads scikit-learn

    rows: dict[str, dict[str, str]] = {}
    for scored in scores:
        for quantity in METRICS[scored["metric"]].quantities:
            estimate = Estimate(**scored["values"][quantity.attribute])
            rows.setdefault(quantity.label, {})[scored["codes"]] = str(estimate)
    for label, cells in rows.items():
        yield f"| {label} | {cells.get('mean', '')} | {cells.get('sampled', '')} |"

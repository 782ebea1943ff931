"""Renders reports as single HTML files: images are inlined, and a browser needs no scripts and no network."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from betavae_fast.evaluation.evaluate import Evaluation
from betavae_fast.evaluation.metrics import UDRScores

CAPTIONS = {
    "information.png": "The share of each factor's entropy that each channel knows. A disentangled model has one dark "
    "cell in every column and at most one in every row.",
    "code-against-factor.png": "The code of each used channel against each factor. A channel that encodes one factor is "
    "flat in all panels of its row but one.",
    "position-maps.png": "The mean code of each used channel at each position of the object. Stripes along one axis mean "
    "that the channel encodes the other axis.",
    "traversal.png": "Each row moves one channel and keeps the others at one image's code. The property that changes "
    "along a row is the one its channel stands for.",
    "traversal.gif": "The traversal as an animation: every channel moves back and forth at the same time.",
    "reconstructions.png": "Images of the data, each above the model's reconstruction.",
    "capacity.png": "The nats that each channel carried during training, split into the spread of its means and the "
    "shrinking of its variances.",
    "aggregated-posterior.png": "Each channel's samples over the whole data set, beside the prior. The decoder saw the "
    "samples in training; sampling from the model gives it the prior.",
    "rate-distortion.png": "The KL of each run and the reconstruction loss reached with it, in nats per image.",
}
"""The caption of each picture, in the order of the report."""

_MIME = {".png": "image/png", ".gif": "image/gif"}


@dataclass(frozen=True)
class Picture:
    """A picture in the form the templates use."""

    name: str
    caption: str
    source: str  # a data URI


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run to compare: its name, its objective in words, and its evaluation."""

    name: str
    objective: str
    evaluation: Evaluation


def render_run(
    name: str, settings: Mapping[str, object], evaluation: Evaluation, drawn: Sequence[Path]
) -> str:
    """Render the report of one run: the findings, the scores and the pictures.

    Args:
        settings: the run's settings, listed at the end.
        drawn: the files of the pictures; those with a caption in ``CAPTIONS`` are shown, in its order.
    """
    return _render(
        "run.html.jinja",
        title=f"Is it disentangled? {name}",
        settings=settings,
        evaluation=evaluation,
        pictures=_pictures(drawn),
    )


def render_comparison(runs: Sequence[EvaluatedRun], udr: UDRScores | None, drawn: Sequence[Path]) -> str:
    """Render a table of the scores of several runs, followed by the findings of each.

    Args:
        udr: the UDR scores, in the order of the runs; None if the runs were not evaluated on the same data.
    """
    labels = list(dict.fromkeys((row.label, row.codes) for run in runs for row in run.evaluation.rows))
    values = [{(row.label, row.codes): row.value for row in run.evaluation.rows} for run in runs]
    return _render(
        "comparison.html.jinja",
        title=f"{len(runs)} runs compared",
        runs=runs,
        labels=labels,
        values=values,
        udr=udr,
        pictures=_pictures(drawn),
    )


def number(value: float | None) -> str:
    """Format ``value`` with three decimals, or as a word or a dash if it is no finite number."""
    if value is None:
        return "–"
    return f"{value:.3f}" if math.isfinite(value) else "infinite" if value > 0 else "undefined"


def _pictures(drawn: Sequence[Path]) -> list[Picture]:
    by_name = {path.name: path for path in drawn}
    return [
        Picture(name, caption, _data_uri(by_name[name]))
        for name, caption in CAPTIONS.items()
        if name in by_name
    ]


def _data_uri(path: Path) -> str:
    return f"data:{_MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _render(template: str, **values: object) -> str:
    environment = Environment(
        loader=PackageLoader("betavae_fast.evaluation.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(template).render(**values)

"""Reports: one file each that any browser shows, offline, without scripts, images inlined."""

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
    "information.png": "How much of each factor's entropy each channel knows: a disentangled model has one dark cell in "
    "every column and at most one in every row.",
    "code-against-factor.png": "The code of each used channel against each factor: a channel that is about one factor is "
    "flat in all panels of its row but one.",
    "position-maps.png": "The mean code of each used channel at each position of the object: stripes along one axis mean "
    "that the channel is about the other.",
    "traversal.png": "One channel moves at a time, the others stay at one image's code: what changes along a row is what "
    "its channel stands for.",
    "traversal.gif": "The same, moving: every channel forth and back at once.",
    "reconstructions.png": "Images of the data above what the model makes of them.",
    "capacity.png": "How many nats each channel carried during training, from the spread of its means and from the "
    "shrinking of its variances.",
    "aggregated-posterior.png": "Each channel's samples over the whole data set beside the prior: what the decoder saw "
    "in training against what sampling from the prior will give it.",
    "rate-distortion.png": "What each run pays in nats of code, and how well it reconstructs for that.",
}
"""What each picture shows, in the order of the report."""

_MIME = {".png": "image/png", ".gif": "image/gif"}


@dataclass(frozen=True)
class Picture:
    """A picture as the templates take it."""

    name: str
    caption: str
    source: str  # a data URI


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run as the comparison takes it: its name, its objective in words, and what was measured."""

    name: str
    objective: str
    evaluation: Evaluation


def render_run(
    name: str, settings: Mapping[str, object], evaluation: Evaluation, drawn: Sequence[Path]
) -> str:
    """The report of one run: what was found, the scores, the pictures.

    Args:
        settings: what it was told, to be listed.
        drawn: the pictures' files; those with a caption in ``CAPTIONS`` are shown, in that order.
    """
    return _render(
        "run.html.jinja",
        title=f"Is it disentangled? {name}",
        settings=settings,
        evaluation=evaluation,
        pictures=_pictures(drawn),
    )


def render_comparison(runs: Sequence[EvaluatedRun], udr: UDRScores | None, drawn: Sequence[Path]) -> str:
    """The table of several runs' scores, with what each one found.

    Args:
        udr: of the runs, in their order; None where they are not of the same data.
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
    """Three digits after the point; words where it is none."""
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

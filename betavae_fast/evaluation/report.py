"""Writes what a run and its evaluation leave behind: JSON, pictures, and reports as single HTML files.

The images of a report are inlined, and a browser needs no network. Only the explorer, which decodes in the page, needs
scripts.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from betavae_fast import __version__
from betavae_fast.data.images import ImageDataset
from betavae_fast.evaluation import FORMAT, TRAVERSAL_EXTENT, TRAVERSED_CHANNELS, pictures
from betavae_fast.evaluation.advice import advice
from betavae_fast.evaluation.explorer import explorer
from betavae_fast.evaluation.findings import reconstruction, use_of_channels
from betavae_fast.evaluation.learned import RULE
from betavae_fast.evaluation.scores import DRAWS, about_in_use, number
from betavae_fast.evaluation.summary import Summary, choose_images, summarise
from betavae_fast.evaluation.traversal import strips, write_moving_traversal, write_traversal
from betavae_fast.files import atomic_writer, write_json
from betavae_fast.nn import BetaVAE
from betavae_fast.nn.pixels import to_float
from betavae_fast.training.log import LogEntry
from betavae_fast.training.run_folder import results_folder
from betavae_fast.training.trained_run import TrainedRun

if TYPE_CHECKING:  # loads scikit-learn, which training does without
    from betavae_fast.evaluation.evaluate import Evaluation

_RECONSTRUCTED = 20  # images
_STARTS = 8  # images that the explorer can start from
_SAMPLES = 100_000  # codes in the histograms of the aggregated posterior
_POSITIONS = ("posY", "posX")
_MIME = {".png": "image/png", ".gif": "image/gif"}

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
    "against-setting.png": "Losses and scores against the setting that has the most values: the median over the seeds, "
    "and the quartiles as a band. Dashed lines are runs without that setting.",
    "rate-distortion.png": "The KL of each run and the reconstruction loss reached with it, in nats per image.",
}
"""The caption of each picture, in the order of the report."""


def write(
    run: TrainedRun,
    evaluation: Evaluation,
    out: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
) -> Path:
    """Write the evaluation of a run, as ``betavae-fast evaluate`` does.

    It leaves evaluation.json (everything but the codes, for ``files.read_json``), report.html, and in pictures/ the run's
    pictures and those of its evaluation: reconstructions.png, capacity.png, traversal.png, traversal.gif,
    aggregated-posterior.png and, if factors are known, information.png, code-against-factor.png and (for data with
    positions) position-maps.png. KLs and losses are in nats per image.

    Args:
        evaluation: what ``evaluate`` found for ``run.model``.
        out: the folder, which is made if missing; by default the run's own.
        name: the run's name in the report; by default the name of its folder.
    Returns: the path of report.html.
    Raises: OSError if nothing can be written there.
    """
    results = results_folder(run.folder.path if out is None else out)
    write_json(results.evaluation, _document(run, evaluation))
    dataset, summary = evaluation.dataset, evaluation.summary
    drawn = write_run_pictures(results.pictures, run.model, dataset, summary, run.history)
    starts = dataset.gather(choose_images(len(dataset), _STARTS).to(dataset.device))
    start = starts[0]
    moving = results.pictures / "traversal.gif"
    write_moving_traversal(moving, run.model, start, summary.channels[:TRAVERSED_CHANNELS])
    drawn += [moving, *write_evaluation_pictures(results.pictures, evaluation)]
    learned = evaluation.learned
    drawn_strips = strips(run.model, start, [row.channel for row in learned.channels])
    names = {
        row.channel.index: row.name for row in learned.channels if row.relation not in ("none", "unknown")
    }
    config = run.config
    render(
        results.report,
        "run.html.jinja",
        drawn,
        title=f"Is it disentangled? {run.folder.path.resolve().name if name is None else name}",
        settings={
            "data": config.data,
            "model": f"{config.architecture}, {config.latent_dim} channels, {config.describe_likelihood()}",
            "objective": config.describe_objective(),
            "trained": f"{run.step:,} steps of {config.batch_size} images, seed {config.seed}",
            "measured on": _measured(evaluation),
        },
        evaluation=evaluation,
        use_of_channels=use_of_channels(summary),
        reconstruction=reconstruction(summary),
        advice=advice(summary, run.history, config),
        learned=list(zip(learned.channels, map(_png_uri, drawn_strips), strict=True)),
        rest=learned.rest,
        explorer=explorer(run.model, starts, [row.channel for row in learned.channels], names),
        starts=[_png_uri(pictures.strip(image[None])) for image in _array(to_float(starts))],
        rule=None if evaluation.table is None else RULE,
        extent=TRAVERSAL_EXTENT,
        about_in_use=about_in_use(evaluation.rows),
        draws=DRAWS,
    )
    return results.report


def compare(
    runs: Sequence[tuple[TrainedRun, Evaluation]], out: str | os.PathLike[str], *, seed: int = 0
) -> Path:
    """Write a comparison of several evaluated runs, as ``betavae-fast evaluate`` does.

    It leaves comparison.json, report.html (a table of all scores, and the findings of each run) and rate-distortion.png.
    If all runs were evaluated on the same images, the comparison has their UDR, too.

    Args:
        runs: at least two runs with their evaluations. Their names are the last parts of their folders' paths.
        out: the folder, which is made if missing.
        seed: seed of the images that UDR draws.
    Returns: the path of report.html.
    Raises: OSError if nothing can be written there; ValueError for fewer than two runs.
    """
    from betavae_fast.evaluation.metrics import udr_scores  # loads scikit-learn

    if len(runs) < 2:
        raise ValueError(f"compare: runs must be at least two, got {len(runs)}")
    folder = results_folder(out)
    evaluations = [evaluation for _, evaluation in runs]
    names = distinct_names([run.folder.path for run, _ in runs])
    objectives = [run.config.describe_objective() for run, _ in runs]
    udr = None
    if len({evaluation.dataset.identity for evaluation in evaluations}) == 1:
        udr = udr_scores(
            [evaluation.encoding.mean_codes for evaluation in evaluations],
            [evaluation.kl_per_dim for evaluation in evaluations],
            np.random.default_rng(seed),
        )
    rates = [evaluation.summary.kl for evaluation in evaluations]
    distortions = [evaluation.summary.reconstruction for evaluation in evaluations]
    drawn = _save(folder.path, {"rate-distortion.png": pictures.rate_distortion(names, rates, distortions)})
    render(
        folder.report,
        "comparison.html.jinja",
        drawn,
        title=f"{len(runs)} runs compared",
        runs=list(zip(names, objectives, evaluations, strict=True)),
        about_in_use=about_in_use(row for found in evaluations for row in found.rows),
        labels=list(dict.fromkeys((row.label, row.codes) for found in evaluations for row in found.rows)),
        rows=[{(row.label, row.codes): row for row in found.rows} for found in evaluations],
        udr=udr,
    )
    compared = [
        {"run": name, "objective": objective, "summary": found.summary, "scores": found.rows}
        for name, objective, found in zip(names, objectives, evaluations, strict=True)
    ]
    write_json(folder.path / "comparison.json", {"runs": compared, "udr": udr})
    return folder.report


def write_summary(run: TrainedRun) -> Summary:
    """Measure a run on a sample of its training images, as ``betavae-fast train`` does when it ends.

    It leaves summary.json and, in pictures/, reconstructions.png, capacity.png and traversal.png.

    Raises: the errors of ``run.images``; OSError if nothing can be written there.
    """
    dataset = run.images()
    summary = summarise(run.model, dataset, among=run.training_images(dataset))
    write_json(run.folder.summary, summary)
    write_run_pictures(run.folder.pictures, run.model, dataset, summary, run.history)
    return summary


@torch.no_grad()
def write_run_pictures(
    folder: Path, model: BetaVAE, dataset: ImageDataset, summary: Summary, history: Sequence[LogEntry]
) -> list[Path]:
    """Draw reconstructions.png, capacity.png and traversal.png into ``folder``, which is made if missing.

    Args:
        model: the model, in evaluation mode.
        history: the run's metrics, at least one entry.
    Returns: the three paths, in that order.
    """
    device = next(model.parameters()).device
    dataset = dataset.to(device)
    originals = dataset.gather(choose_images(len(dataset), _RECONSTRUCTED).to(device))
    figures = {
        "reconstructions.png": pictures.reconstructions(
            _array(to_float(originals)), _array(model.pixels(model(originals).decoded))
        ),
        "capacity.png": pictures.capacity(
            [entry.images for entry in history],
            np.array([entry.mean_dispersion for entry in history]),
            np.array([entry.variance for entry in history]),
        ),
    }
    traversal = folder / "traversal.png"
    drawn = _save(folder, figures)
    write_traversal(traversal, model, originals[0], summary.channels[:TRAVERSED_CHANNELS])
    return [*drawn, traversal]


def write_evaluation_pictures(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Draw the pictures of an evaluation into ``folder``, which is made if missing.

    They are aggregated-posterior.png and, if factors are known, information.png, code-against-factor.png and (for data
    with positions) position-maps.png.

    Returns: the paths of the pictures drawn.
    """
    shown = evaluation.summary.channels[:TRAVERSED_CHANNELS]
    order = [channel.index for channel in shown]
    samples = evaluation.encoding.sampled_codes(evaluation.seed)
    rows = np.random.default_rng(evaluation.seed).permutation(len(samples))[:_SAMPLES]
    figures = {"aggregated-posterior.png": pictures.aggregated_posterior(samples[rows], shown)}
    if table := evaluation.table:
        figures["information.png"] = pictures.information(table.shares[order], shown, table.names)
        active = [channel for channel in shown if channel.active] or shown
        used = [channel.index for channel in active]
        known = np.sort(np.argsort(-table.shares[used].max(0), kind="stable")[: pictures.MANY_FACTORS])
        figures["code-against-factor.png"] = pictures.code_against_factor(
            [table.means[factor][:, used] for factor in known],
            [table.deviations[factor][:, used] for factor in known],
            active,
            [table.names[factor] for factor in known],
            left_out=len(table.names) - len(known),
        )
        if set(_POSITIONS) <= set(table.names):
            maps = table.mean_over_grid(evaluation.encoding.mean_codes, *_POSITIONS)
            figures["position-maps.png"] = pictures.position_maps(maps[used], active, _POSITIONS)
    return _save(folder, figures)


def rehearse_pictures() -> None:
    """Draw a picture and discard it, so that a fault of the plotting library or its fonts shows before the work."""
    figure = pictures.capacity([1, 2], np.zeros((2, 1)), np.zeros((2, 1)))
    figure.savefig(io.BytesIO(), format="png")


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Name runs for reports, by as many last parts of each path as tell them all apart.

    >>> distinct_names([Path("/a/exp1/run"), Path("/a/exp2/run")])
    ['exp1/run', 'exp2/run']
    """
    parts = [path.resolve().parts for path in paths]
    different = len(set(parts))
    depth = 1
    while len({path[-depth:] for path in parts}) < different:
        depth += 1
    return ["/".join(path[-depth:]) for path in parts]


def _measured(evaluation: Evaluation) -> str:
    """The number of images that were encoded, in words."""
    encoded, there = len(evaluation.encoding.mu), len(evaluation.dataset)
    return f"{encoded:,} images" if encoded == there else f"{encoded:,} of {there:,} images, drawn at random"


def _document(run: TrainedRun, evaluation: Evaluation) -> dict[str, object]:
    """The content of evaluation.json."""
    table = evaluation.table
    return {
        "format": FORMAT,
        "version": __version__,
        "step": run.step,
        "data": evaluation.dataset.name,
        "images": len(evaluation.encoding.mu),
        "identity": evaluation.dataset.identity,
        "seed": evaluation.seed,
        "learned": evaluation.learned,
        "findings": evaluation.findings,
        "summary": evaluation.summary,
        "held_out": evaluation.held_out,
        "importance_weighted": [
            {
                "samples": bound.samples,
                "images": len(bound.per_image),
                "bound": bound.mean,
                "standard_error": bound.standard_error,
            }
            for bound in evaluation.importance
        ],
        "factors": table and {"names": table.names, "shares": table.shares},
        "scores": evaluation.scores,
        "seconds": evaluation.seconds,
    }


def _save(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write figures under their names into ``folder``, which is made if missing; return their paths."""
    for name, figure in figures.items():
        pictures.save(figure, folder / name)
    return [folder / name for name in figures]


def render(path: Path, template: str, drawn: Sequence[Path], **values: object) -> None:
    """Write an HTML file from a template, with those of the pictures ``drawn`` that have a caption, in its order."""
    environment = Environment(
        loader=PackageLoader("betavae_fast.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    by_name = {picture.name: picture for picture in drawn}
    shown = [(CAPTIONS[name], _data_uri(by_name[name])) for name in CAPTIONS if name in by_name]
    text = environment.get_template(template).render(pictures=shown, **values)
    with atomic_writer(path) as file:
        file.write(text.encode())


def _data_uri(picture: Path) -> str:
    return _inline(picture.read_bytes(), picture.suffix)


def _png_uri(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return _inline(content.getvalue(), ".png")


def _inline(content: bytes, suffix: str) -> str:
    """A picture as the source of an image in a page."""
    return f"data:{_MIME[suffix]};base64,{base64.b64encode(content).decode()}"


def _array(images: Tensor) -> pictures.Images:
    array: pictures.Images = images.float().cpu().numpy()
    return array

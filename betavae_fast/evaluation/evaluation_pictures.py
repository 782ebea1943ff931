"""Draws the pictures that an evaluation adds to the pictures of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from betavae_fast.evaluation import pictures
from betavae_fast.evaluation.evaluate import Evaluation
from betavae_fast.evaluation.factor_table import mean_over_grid
from betavae_fast.evaluation.report import MAX_TRAVERSED

_POSITIONS = ("posY", "posX")
_SAMPLES = 100_000


def write_evaluation_pictures(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Draw the pictures of an evaluation into ``folder``, which is made if missing.

    They are aggregated-posterior.png and, if factors are known, information.png, code-against-factor.png and (for data
    with positions) position-maps.png.

    Returns: the paths of the pictures drawn.
    """
    shown = evaluation.summary.channels[:MAX_TRAVERSED]
    order = [channel.index for channel in shown]
    samples = evaluation.encoding.sampled_codes(evaluation.seed)
    rows = np.random.default_rng(evaluation.seed).permutation(len(samples))[:_SAMPLES]
    figures = {"aggregated-posterior.png": pictures.aggregated_posterior(samples[rows], shown)}
    if table := evaluation.table:
        figures["information.png"] = pictures.information(table.shares[order], shown, table.names)
        active = [channel for channel in shown if channel.active] or shown
        used = [channel.index for channel in active]
        figures["code-against-factor.png"] = pictures.code_against_factor(
            [means[:, used] for means in table.means],
            [deviations[:, used] for deviations in table.deviations],
            active,
            table.names,
        )
        if set(_POSITIONS) <= set(table.names):
            maps = mean_over_grid(evaluation.encoding.mean_codes, table, *_POSITIONS)
            figures["position-maps.png"] = pictures.position_maps(maps[used], active, _POSITIONS)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        pictures.save(figure, folder / name)
    return [folder / name for name in figures]

"""Draws the pictures of a run from its model, its data and its metrics."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from betavae_fast.data.images import ImageDataset
from betavae_fast.evaluation import pictures
from betavae_fast.evaluation.summary import Summary, choose_images
from betavae_fast.evaluation.traversal_files import write_traversal
from betavae_fast.nn import BetaVAE
from betavae_fast.nn.pixels import to_float
from betavae_fast.training.metrics import Metrics

MAX_TRAVERSED = 16  # channels in a picture; more would be hard to read
RECONSTRUCTED = 20  # images


@torch.no_grad()
def write_pictures(
    folder: Path, model: BetaVAE, dataset: ImageDataset, summary: Summary, history: list[Metrics]
) -> list[Path]:
    """Draw reconstructions.png, capacity.png and traversal.png into ``folder`` (made if missing).

    Args:
        model: the model, in evaluation mode.
        history: the run's metrics, at least one entry.
    Returns: the three paths, in that order.
    """
    device = next(model.parameters()).device
    dataset = dataset.to(device)
    originals = dataset.gather(choose_images(len(dataset), RECONSTRUCTED).to(device))
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
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        pictures.save(figure, folder / name)
    traversal = folder / "traversal.png"
    write_traversal(traversal, model, originals[0], summary.channels[:MAX_TRAVERSED])
    return [*(folder / name for name in figures), traversal]


def rehearse_pictures() -> None:
    """Draw a picture and discard it, so that a fault of the plotting library or its fonts shows before the training."""
    figure = pictures.capacity([1, 2], np.zeros((2, 1)), np.zeros((2, 1)))
    figure.savefig(io.BytesIO(), format="png")


def _array(images: Tensor) -> NDArray[np.floating]:
    return images.float().cpu().numpy()

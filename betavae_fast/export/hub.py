"""Writes a trained run as a folder in the form of the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from betavae_fast.evaluation.card import hub_card
from betavae_fast.files import atomic_writer
from betavae_fast.training.trained_run import TrainedRun

_PICTURES = ("traversal.gif", "traversal.png", "reconstructions.png", "information.png")


def write_hub(run: TrainedRun, folder: str | os.PathLike[str], *, license: str | None = None) -> list[Path]:
    """Write the model of ``run`` with its card: config.json, model.safetensors, README.md, and the run's pictures.

    ``BetaVAE.from_pretrained`` loads the folder. The card says how the run was trained and, if it is evaluated, what it
    has learned, with losses in nats an image and the scores.

    Args:
        folder: the folder, which is made if missing.
        license: the licence that the card names, by the Hub's name for it; None for none.
    Returns: the paths of the files.
    Raises: ValueError for another kind of name, or if the evaluation is of another step than the model; OSError if
        nothing can be written there.

    >>> write_hub(open_run("runs/dsprites-burgess"), "hub", license="cc-by-4.0")  # doctest: +SKIP
    """
    path = Path(folder)
    pictures = {f"pictures/{found.name}": found.read_bytes() for found in _pictures(run)}
    card = hub_card(run, license, list(pictures))
    for name, content in pictures.items():
        with atomic_writer(path / name) as file:
            file.write(content)
    run.model.save_pretrained(path, card=card)
    return sorted(file for file in path.rglob("*") if file.is_file())


def _pictures(run: TrainedRun) -> list[Path]:
    """The pictures of the run, or those of a published run, which lie in its folder itself. None if the model is an
    earlier one, the best, and was not evaluated, because the pictures are then of the latest."""
    if run.step != run.history[-1].step and not run.folder.evaluation.exists():
        return []
    places = (run.folder.pictures, run.folder.path)
    return [place / name for name in _PICTURES for place in places if (place / name).is_file()]

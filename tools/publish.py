"""Publishes an evaluated run as a small folder: ``python -m tools.publish RUN OUT``.

OUT gets the model without the state of training, config.json, metrics.jsonl, traversal.gif and a card. ``betavae-fast
evaluate OUT`` and ``traverse OUT`` take it like any run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from betavae_fast.evaluation.card import model_card
from betavae_fast.training.checkpoint import copy_model
from betavae_fast.training.run_folder import RunFolder

_CARD = "README.md"


def publish(run: Path, out: Path) -> None:
    """Write the published folder of ``run`` to ``out``, which must be new or empty.

    Raises: FileNotFoundError if ``run`` is not an evaluated run; FileExistsError if there is something in ``out``;
        RunFileError if the run is damaged.
    """
    source, published = RunFolder(run), RunFolder(out)
    card = model_card(source, str(out))
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    copy_model(source.checkpoint, published.checkpoint)
    for file in (source.config, source.metrics, source.pictures / "traversal.gif"):
        shutil.copyfile(file, out / file.name)
    (out / _CARD).write_text(card, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.publish", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of an evaluated run")
    parser.add_argument("out", type=Path, help="folder to write, new or empty")
    args = parser.parse_args()
    publish(args.run, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Imports published weights as runs that can be evaluated: ``python -m benchmarks.published CLONE FOLDER``.

CLONE is a clone of github.com/YannDubs/disentangling-vae at f045219. Its five models of dSprites become FOLDER/NAME. Each
was trained with one seed, for 345,600 steps of 64 images; FactorVAE for 345,600 steps of 128, of which each loss takes
half. The options of the objective are those of their specs.json. The other settings in a run's config.json are this
library's defaults, and say nothing of the training: its seed was 1234, and its learning rate 5e-4 (betaB 1e-3, factor
1e-4).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import parser_of
from betavae_fast.integrations.disentangling_vae import load_disentangling_vae, to_run
from betavae_fast.objectives.options import (
    BetaOptions,
    BetaTCOptions,
    CapacityOptions,
    FactorVAEOptions,
    ObjectiveOptions,
)

MODELS: dict[str, ObjectiveOptions] = {
    "VAE": BetaOptions(1.0),
    "betaH": BetaOptions(4.0),
    "betaB": CapacityOptions(25.0, gamma=100.0),
    "factor": FactorVAEOptions(gamma=6.4),
    "btcvae": BetaTCOptions(beta=6.4),
}
"""The objective of each model, by the first part of its folder's name."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of("benchmarks.published", __doc__)
    parser.add_argument("clone", type=Path, metavar="CLONE", help="the clone")
    parser.add_argument("out", type=Path, metavar="FOLDER", help="the folder of the runs, made if missing")
    args = parser.parse_args(argv)
    for name, objective in MODELS.items():
        model = load_disentangling_vae(args.clone / "results" / f"{name}_dsprites" / "model.pt")
        print(to_run(model, args.out / name, objective=objective).path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

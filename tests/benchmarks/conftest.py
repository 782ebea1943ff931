"""Fixtures of the benchmarks' tests. The benchmarks are not installed with the package but imported from the checkout."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="module")
def small_latent():
    """Replace the registry's latent op by a tiny one without torch.compile. Call the result with contenders to add."""
    from betavae_fast.bench import latent

    contenders = latent.OP.contenders

    def install(*added):
        kept = ("eager", "distributions", "reference")
        chosen = tuple(c for c in contenders("cpu") if c.name in kept) + added
        op = replace(
            latent.OP, shapes={"cpu": ((16, 3),)}, dtypes=("fp32",), contenders=lambda device: chosen
        )
        patch.setattr(latent, "OP", op)
        return op

    with pytest.MonkeyPatch.context() as patch:
        yield install

"""What the tests of the emulated kernels share."""

from __future__ import annotations

import pytest


@pytest.fixture(params=("ascending", "reverse"))
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """CTAs and threads take their turns in either order: what a race decides differs between them."""
    monkeypatch.setenv("EMULATED_ORDER", request.param)

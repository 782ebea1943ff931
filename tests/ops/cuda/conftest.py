"""Fixtures that the tests of the emulated kernels share."""

from __future__ import annotations

import pytest


@pytest.fixture(params=("ascending", "reverse"))
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run CTAs and threads in either order, so that the result of a race differs between the two."""
    monkeypatch.setenv("EMULATED_ORDER", request.param)

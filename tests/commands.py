"""Runs the command line within the test's process."""

from __future__ import annotations

import pytest

from betavae_fast import cli


def run(*arguments: str) -> int | str | None:
    """Run ``betavae-fast`` with ``arguments``. Returns: its exit status."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    return exit_.value.code

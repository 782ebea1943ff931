"""The notebook runs from top to bottom, and is committed as it ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import PATIENCE
from tests.backends import ROOT, fresh_process

NOTEBOOK = ROOT / "examples" / "tour.ipynb"


@pytest.fixture(scope="module")
def code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_it_runs(code_cells: list[dict], tmp_path: Path) -> None:
    (tmp_path / "dsprites").symlink_to(ROOT / "examples" / "dsprites")
    script = tmp_path / "tour.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in code_cells), encoding="utf-8")
    done = fresh_process(str(script), directory=tmp_path, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    told = "".join(code_cells[0]["outputs"][0]["text"])
    assert told and done.stdout.startswith(told)  # the noise has the same bits on every machine


def test_it_was_executed_in_order_and_is_small(code_cells: list[dict]) -> None:
    assert [cell["execution_count"] for cell in code_cells] == list(range(1, len(code_cells) + 1))
    assert NOTEBOOK.stat().st_size < 200_000
    kinds = {out["output_type"] for cell in code_cells for out in cell["outputs"]}
    assert kinds <= {"stream", "execute_result"}
    assert not any(
        str(Path.home()) in line or "/tmp" in line for cell in code_cells for line in cell["source"]
    )

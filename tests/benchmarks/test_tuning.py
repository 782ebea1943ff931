"""The sweep over other cuts of the GPU kernels, as far as it can be tested without a GPU."""

import importlib
import json

import pytest

from benchmarks import cuts, tuning
from betavae_fast.bench.registry import get

TRITON = [key for key in tuning.CUTS if key[0] == "triton"]


def test_on_a_cpu_it_runs_and_writes_what_it_has_tried(tmp_path, capsys):
    out = tmp_path / "tuning.json"
    assert tuning.main(["--device", "cpu", "--out", str(out)]) == 0
    tried = json.loads(out.read_text())["tried"]
    assert [entry["op"] for entry in tried] == ["latent", "log_densities"]
    assert all(entry["cuts"]["default"]["p50"] > 0 and not entry["failed"] for entry in tried)
    assert "1.000" in capsys.readouterr().out  # of the default


def test_a_cut_that_fails_is_named_and_the_others_are_timed(monkeypatch, tmp_path, capsys):
    cut = tuning._cut

    def failing(backend, op, figures):
        if figures:
            raise RuntimeError("no such launch")
        return cut(backend, op, figures)

    monkeypatch.setattr(tuning, "_cut", failing)
    monkeypatch.setitem(tuning.CUTS, ("cpp", "latent"), ({"most_tiles": 1},))
    assert tuning.main(["--device", "cpu", "--out", str(tmp_path / "tuning.json")]) == 1
    said = capsys.readouterr().out
    assert "FAILED latent (16, 3) fp32 cpp: most_tiles=1: RuntimeError: no such launch" in said
    assert "default" in {line.split("  ")[1].strip() for line in said.splitlines() if "fp32 cpp " in line}


def test_a_gpu_is_asked_for_all_that_there_are_cuts_of():
    asked = {(b, op) for b in tuning.BACKENDS["cuda"] for op, *_ in tuning.PROBLEMS["cuda"]}
    assert asked <= tuning.CUTS.keys()
    for op, _, _ in tuning.PROBLEMS["cuda"]:
        assert set(tuning.BACKENDS["cuda"]) <= {c.name for c in get(op).contenders("cuda")}


@pytest.mark.parametrize(("backend", "op"), TRITON)
def test_tritons_launches_are_cut_otherwise_within_the_block_only(backend, op):
    """A figure that is not named as the constant would change nothing."""
    pytest.importorskip("triton")
    module = importlib.import_module(cuts._TRITON[op])

    def launches():
        """The cuts of a large problem and of a small one."""
        if op == "latent":
            return module.row_partition(1 << 20, 64), module.row_partition(4096, 10)
        return module._Splits.of(2048, 2048, 16), module._Splits.of(8192, 8192, 16)

    default, found = launches(), set()
    for figures in tuning.CUTS[backend, op]:
        with pytest.raises(KeyError), cuts.triton_cut(op, figures):
            found.add(launches())
            raise KeyError
        assert launches() == default
    assert default[0] in {large for large, _ in found}, (
        "no entry shows how far two measurements of the same cut differ"
    )
    assert len(found) >= 4


def test_no_figure_may_be_0():
    with pytest.raises(ValueError, match="at least 1"), cuts.triton_cut("latent", {"MOST_TILES": 0}):
        pass

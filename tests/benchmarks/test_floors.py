"""The floors compute what the ops compute, and their study measures them."""

from __future__ import annotations

import pytest
import torch

from benchmarks import floors
from benchmarks.study import StudyError
from betavae_fast.bench.registry import get
from betavae_fast.bench.timing import QUICK

THREADS = 2


@pytest.fixture(scope="module")
def widest(tmp_path_factory):
    """The widest instruction set here, and its libraries."""
    if not (sets := floors.instruction_sets()):
        pytest.skip("needs AVX2 and the C++ library")
    return sets[-1], floors.build(tmp_path_factory.mktemp("floors"), sets[-1])


# A batch with one tile, with a padded one, and with columns that do not divide a vector.
@pytest.mark.parametrize(
    ("op", "shape"),
    [*floors.TINY, ("latent", (63, 16)), ("latent", (500, 7)), ("bernoulli_nll", (3, 1, 16, 32))],
)
def test_a_floor_computes_what_the_op_computes(widest, op, shape):
    problem = get(op).setup(shape, torch.float32, torch.device("cpu"), 0)
    loops = floors.loops_of(widest[1], op, problem, THREADS)
    for output in loops.outputs:
        output.fill_(float("nan"))
    loops.parts[floors.FLOOR]()
    floors.compare(loops)
    loops.outputs[0].zero_()
    with pytest.raises(StudyError, match="computes something else"):
        floors.compare(loops)


def test_the_latent_floor_draws_the_noise_of_the_contract(widest):
    problem = get("latent").setup((64, 10), torch.float32, torch.device("cpu"), 0)
    loops = floors.loops_of(widest[1], "latent", problem, THREADS)
    loops.whole(*loops.outputs)
    found, expected = loops.results()
    assert torch.equal(found[0], expected[0])


def test_the_study_measures_every_part(widest, monkeypatch):
    monkeypatch.setattr(floors, "build", lambda folder, instruction_set: widest[1])
    found = floors.measure_with(widest[0], floors.TINY, THREADS, QUICK)
    assert [(f.op, f.shape) for f in found] == list(floors.TINY)
    for floor in found:
        assert {floors.EAGER, floors.OURS, floors.FLOOR, floors.HOST, floors.MEMORY} < floor.calls.keys()
        assert 0 < floor.seconds(floors.HOST) < floor.in_torch


def test_without_a_compiler_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(StudyError, match=r"^no-such-compiler was not found$"):
        floors.build(tmp_path, "avx2")

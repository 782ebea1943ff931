"""The step benchmark: the failure of one contender does not stop the others, and earlier measurements are kept."""

from __future__ import annotations

from contextlib import contextmanager
from multiprocessing import Pipe
from threading import Barrier, Thread

import pytest

from benchmarks import step
from benchmarks.trainers import TRAINERS


@contextmanager
def _workers(answers):
    """Start threads that each give one answer or end without one. All wait until each has been asked."""
    asked = Barrier(len(answers))
    workers = {}

    def work(connection, answer):
        connection.recv()
        asked.wait(60)
        if answer is not None:
            connection.send(answer)
        connection.close()

    threads = []
    for name, answer in answers.items():
        workers[name], theirs = Pipe()
        threads.append(Thread(target=work, args=(theirs, answer), daemon=True))
        threads[-1].start()
    yield workers
    for thread in threads:
        thread.join(60)


def test_one_that_fails_is_named_and_the_others_are_compared():
    losses = {
        "eager": [2.0, 1.0],
        "compile": [2.0, 1.0005],
        "pythae": RuntimeError("ImportError: no"),
        "ours": [2.0, 1.01],
        "ours, bf16": None,
    }
    failed = {}
    with _workers(losses) as workers:
        differences = step._check(workers, failed)
    assert list(workers) == ["eager", "compile"] and differences["compile"] == pytest.approx(5e-4)
    assert failed == {
        "pythae": "ImportError: no",
        "ours, bf16": "its process ended",
        "ours": "its losses differ from eager's by 1.0e-02, more than 1e-04",
    }


def test_nothing_is_compared_without_eager():
    failed = {}
    with _workers({"eager": RuntimeError("out of memory"), "ours": [1.0]}) as workers:
        assert step._check(workers, failed) == {} and not workers
    assert failed == {"eager": "out of memory", "ours": "not compared, because eager failed"}


def test_every_mode_of_the_compiler_has_the_same_tolerance():
    modes = [name for name in TRAINERS["cuda"] if name.startswith("compile")]
    assert len(modes) == 3 and {step.tolerance(name) for name in modes} == {1e-3}
    assert step.tolerance("ours") == step.tolerance("eager, memory kept") == 1e-4


def test_each_batch_size_is_written_before_the_next(monkeypatch, tmp_path, capsys):
    out = tmp_path / "step.json"
    chosen = []

    def measure(size, names, *settings):
        chosen.append(names)
        if size == 16:
            raise KeyboardInterrupt
        return [step._step_time("eager", size, [1.0, 1.0], 0.0, {})], {"ours": "RuntimeError: no"}

    monkeypatch.setattr(step, "time_steps", measure)
    assert step.main(["--batch-sizes", "8", "16", "32", "--out", str(out)]) == 130
    found = step.StepResults.load(out)
    assert [m.batch_size for m in found.measurements] == [8] and set(found.left_out) == {
        "16 images",
        "32 images",
    }
    assert step.main(["--batch-sizes", "8", "--out", str(out)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAILED step, ours, 8 images: RuntimeError: no"
    assert step.StepResults.load(out).left_out == {} and "ours" in chosen[0]

"""A regression is a difference beyond the noise of repeated runs, and nothing else."""

from __future__ import annotations

import signal
from contextlib import contextmanager

import pytest

from benchmarks import ROOT, compare
from benchmarks.__main__ import main
from benchmarks.compare import BaseError, against

KEY = "(64, 10) fp32 forward, cpp"


def _runs(*times):
    return [{KEY: time} for time in times]


@pytest.mark.parametrize(
    ("base", "here", "regression", "beyond_noise"),
    [
        ((1.0, 1.1, 1.2), (2.0, 2.1, 2.2), True, True),
        ((2.0, 2.1, 2.2), (1.0, 1.1, 1.2), False, True),
        ((1.0, 1.1, 2.1), (2.0, 2.1, 2.2), False, False),  # the ranges overlap
        ((1.0, 1.0, 1.0), (1.01, 1.01, 1.01), False, False),  # apart, but the difference is tiny
    ],
)
def test_a_change_is_what_all_runs_agree_on(base, here, regression, beyond_noise):
    [change] = compare.compare(_runs(*base), _runs(*here))
    assert (change.regression, change.beyond_noise) == (regression, beyond_noise)
    assert change.ratio == pytest.approx(sorted(here)[1] / sorted(base)[1])


def test_only_what_both_have_is_compared():
    assert compare.compare([{"old": 1.0}], [{"new": 1.0}]) == []


@pytest.mark.parametrize("revision", ["no-such-commit", "--output=x", "HEAD:README.md"])
def test_what_is_no_commit_is_named(revision):
    with pytest.raises(BaseError, match=f"{revision} is no commit"):
        against(revision, ["latent"])


def test_nothing_in_common_is_an_error_and_no_pass(monkeypatch):
    @contextmanager
    def elsewhere(revision):
        yield ROOT / "base"

    monkeypatch.setattr(compare, "_checkout", elsewhere)
    monkeypatch.setattr(compare, "_measure", lambda tree, options: {str(tree): 1.0})
    with pytest.raises(BaseError, match="nothing was measured both here and at v0"):
        against("v0", ["latent"])


def test_both_are_measured_in_turn(monkeypatch, capsys, tmp_path):
    """The test compares the checkout with itself, without building: the command is the same, and no file is written."""

    @contextmanager
    def itself(revision):
        base = tmp_path / "base"
        base.symlink_to(ROOT)
        yield base

    monkeypatch.setattr(compare, "_checkout", itself)
    monkeypatch.setattr(compare, "RUNS", 1)
    options = ["--shapes", "16x3", "--dtypes", "fp32", "--quick", "--contenders", "eager", "reference"]
    assert main(["latent", "--base", "HEAD", *options]) in (0, 1)
    printed = capsys.readouterr().out
    assert "forward+backward" in printed and "Written" not in printed


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_both_are_built_and_sigterm_leaves_nothing_behind(monkeypatch):
    built = []

    def build(command, tree):
        assert "build_ext" in command and (tree / "setup.py").is_file()
        built.append(tree)
        if tree == ROOT:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("the signal was swallowed")

    monkeypatch.setattr(compare, "_run", build)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        against("HEAD", ["latent"])
    assert stop.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    assert len(built) == 2 and not built[0].exists()

"""The first look at a machine names each op and its failures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import first_look
from betavae_fast.bench import latent
from betavae_fast.bench.registry import Contender, op_names


def _look(capsys: pytest.CaptureFixture[str], *added: Contender) -> tuple[int, list[str]]:
    own = latent.OP.contenders
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent, "OP", replace(latent.OP, contenders=lambda device: (*own(device), *added)))
        status = first_look.main(["--device", "cpu"])
    return status, capsys.readouterr().out.splitlines()


def test_what_is_missing_or_wrong_is_named_and_every_op_is_looked_at(capsys):
    def breaks(inputs, noise):
        raise RuntimeError("no kernel image")

    missing = Contender("absent", lambda: breaks, ours=True, missing="it was not built")
    status, printed = _look(capsys, Contender("broken", lambda: breaks, ours=True), missing)
    assert status == 1
    assert "FAILED latent (257, 33) fp32: broken: RuntimeError: no kernel image" in printed
    assert "FAILED latent (257, 33) fp32: absent: it was not built" in printed
    looked = {line.split()[0] for line in printed if line.endswith("within the error budget")}
    assert looked == set(op_names())
    assert any(line.startswith("torch: ") for line in printed)

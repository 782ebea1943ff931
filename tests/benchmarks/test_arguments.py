"""The command lines of the benchmarks: wrong arguments end them before anything is measured."""

from __future__ import annotations

import pytest
import torch

from benchmarks import bias, encode, latency, objectives, scaling, step, time_to_loss
from benchmarks.arguments import command, writable_folder

FILES, FOLDERS = (encode, latency, step, time_to_loss), (bias, objectives, scaling)
THREADS = (encode, latency, scaling, step, time_to_loss)


@pytest.mark.parametrize(
    ("module", "options", "named"),
    [
        *((module, ("--threads", "0"), "at least 1, got '0'") for module in THREADS),
        *((module, ("--out", "/dev/null/x"), "argument --out") for module in FILES + FOLDERS),
        *((module, ("--out", "."), "is a folder") for module in FILES),
        *((module, ("--out", __file__), "argument --out") for module in FOLDERS),
        *((module, ("--ou", "x"), "unrecognized arguments: --ou x") for module in FILES + FOLDERS),
        (bias, ("--max-batch", "63"), "at least 64, got '63'"),
        (scaling, ("--max-batch", "-1"), "at least 256, got '-1'"),
        (encode, ("--images", "many"), "at least 1, got 'many'"),
        (encode, ("--architecture", "resnet"), "invalid choice: 'resnet'"),
        (encode, ("--device", "tpu"), "invalid choice: 'tpu'"),
        (step, ("--batch-sizes", "64", "0"), "at least 1, got '0'"),
        (step, ("--samples", "1"), "at least 2, got '1'"),
        (step, ("--contenders", "ours", "nobody"), "no nobody on cpu; there are eager, "),
        (objectives, ("--steps", "9"), "at least 10, got '9'"),
        (objectives, ("--pictures", "/dev/null/x"), "argument --pictures"),
        (objectives, ("--data", "no-such-set"), "no data set or file named 'no-such-set'"),
    ],
)
def test_wrong_arguments_are_named(module, options, named, capsys):
    with pytest.raises(SystemExit) as stop:
        module.main(options)
    assert stop.value.code == 2 and named in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("module", FILES)
def test_a_device_that_is_not_there_is_named(module, capsys):
    with pytest.raises(SystemExit) as stop:
        module.main(("--device", "cuda"))
    assert stop.value.code == 2 and "torch sees no CUDA device" in capsys.readouterr().err


def test_a_command_names_no_place_of_this_machine():
    options = ("--steps", "9", "--out", "/home/me", "--pictures=/home/me", "--data", "my set", "--out=x")
    assert command("benchmarks.x", options) == "python -m benchmarks.x --steps 9 --data 'my set'"


def test_a_folder_to_write_into_is_made(tmp_path):
    folder = tmp_path / "deep" / "folder"
    assert writable_folder(str(folder)) == folder and not list(folder.iterdir())


def test_the_recorded_command_is_one_to_type() -> None:
    """The module of an op's study is two words."""
    recorded = command("benchmarks latent", ["--brief", "--out", "here.json", "--threads=2"])
    assert recorded == "python -m benchmarks latent --brief --threads=2"

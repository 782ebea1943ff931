"""The command line as a user sees it."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import betavae_fast
from betavae_fast import cli
from betavae_fast.training import loop
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import read_log
from betavae_fast.training.run import new_run
from betavae_fast.training.run_folder import RunFolder, exclusive
from betavae_fast.training.trained_run import open_run
from tests import PATIENCE
from tests.backends import ROOT
from tests.commands import run

COMMAND = [sys.executable, "-m", "betavae_fast"]
PICTURES = ("reconstructions.png", "traversal.png", "capacity.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "tiny.npy"
    np.save(path, np.random.default_rng(0).random((64, 8, 8)) < 0.2)
    return str(path)


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    """Write runs into a temporary folder from which the package can be imported."""
    monkeypatch.setenv("PYTHONPATH", str(Path(betavae_fast.__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def fails(capfd, *arguments: str) -> str:
    """Run these arguments, which must fail with exit code 2, and return their one line on stderr."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    captured = capfd.readouterr()
    assert exit_.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("betavae-fast: ") and captured.err.count("\n") == 1
    return captured.err


def cli_exits(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    return exit_.value.code


def assert_usable(folder: RunFolder, step: int | None = None) -> None:
    saved = load_checkpoint(folder.checkpoint)
    entries = read_log(folder.metrics)
    assert saved.step == entries[-1].step
    assert step is None or saved.step == step
    saved.build_model()
    for name in PICTURES:
        with Image.open(folder.pictures / name) as picture:
            picture.load()
            assert min(picture.size) > 200
    summary = json.loads(folder.summary.read_text())
    assert summary["mean_image_reconstruction"] > 0
    assert any(folder.tensorboard.iterdir())


def test_train_leaves_a_complete_run(in_tmp_path, data):
    options = [
        "--steps=5",
        "--batch-size=16",
        "--latent-dim=3",
        "--log-every=2",
        "--beta=1.5",
        "--out=here/run",
    ]
    done = subprocess.run(
        [*COMMAND, "train", "--data", data, *options], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    folder = RunFolder(Path("here/run"))
    assert_usable(folder, step=5)
    assert json.loads(folder.config.read_text())["config"]["beta"] == 1.5
    assert [entry.step for entry in read_log(folder.metrics)] == [2, 4, 5]
    assert "for the mean image" in done.stdout
    assert "here/run/pictures" in done.stdout


def test_what_was_told_and_chosen_is_written_down(in_tmp_path, capfd, data):
    told = {
        "beta_warmup": 2,
        "accumulate": 2,
        "lr_schedule": "cosine",
        "lr_warmup": 1,
        "clip_grad_norm": 5.0,
        "precision": "bf16",
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in told.items()]
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--data", data, "--steps=3", "--batch-size=auto", "--out=run", *options])
    assert exit_.value.code == 0
    folder = RunFolder(Path("run"))
    assert_usable(folder, step=3)
    written = json.loads(folder.config.read_text())["config"]
    assert {name: written[name] for name in told} == told
    assert written["batch_size"] == 64  # all images there are
    assert load_checkpoint(folder.checkpoint).config.batch_size == 64
    assert "3 steps of 64 images on cpu in bfloat16" in capfd.readouterr().out


def test_ctrl_c_leaves_a_usable_run(in_tmp_path, data):
    arguments = ["train", "--data", data, "--steps", "1000000", "--batch-size", "8", "--out", "run"]
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            metrics = RunFolder(Path("run")).metrics
            deadline = time.monotonic() + PATIENCE
            while not (metrics.exists() and metrics.stat().st_size):
                assert child.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            child.send_signal(signal.SIGINT)
            _, stderr = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()  # a failing test must not wait for a million steps
    assert child.returncode == 130
    assert stderr.count("\n") == 1
    step = load_checkpoint(Path("run/checkpoint")).step
    assert f"interrupted after step {step} of 1000000" in stderr and "run" in stderr
    assert_usable(RunFolder(Path("run")))


def run_in_process(capfd, *arguments: str) -> str:
    """Run a command that must succeed, and return its output."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    captured = capfd.readouterr()
    assert (exit_.value.code, captured.err) == (0, "")
    return captured.out


@pytest.fixture(scope="module")
def four_steps(data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    options = ["--steps=4", "--batch-size=16", "--latent-dim=3", "--log-every=2", "--lr=0.01"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--data", data, *options, "--out", str(path)])
    assert exit_.value.code == 0
    return path


@pytest.fixture
def finished_run(in_tmp_path, four_steps) -> RunFolder:
    """A run of four steps."""
    shutil.copytree(four_steps, "run")
    return RunFolder(Path("run"))


def test_a_new_run_names_an_unfinished_one_of_the_same_settings(in_tmp_path, capfd, monkeypatch, data):
    def trained(*options: str) -> str:
        own = ["--architecture=mlp", "--latent-dim=2", "--batch-size=16", "--precision=fp32", "--log-every=1"]
        return run_in_process(capfd, "train", "--data", data, "--steps=3", *own, *options)

    monkeypatch.setattr(cli.train, "_summarise", lambda *_: None)
    config = TrainConfig(
        data=data, architecture="mlp", latent_dim=2, batch_size=16, steps=3, precision="fp32"
    )
    with new_run(config) as (state, folder):
        loop.train(state, folder, should_stop=lambda: True)
    words = "has the same settings"
    for others in ("--out=elsewhere", "--seed=1", "--steps=4"):
        assert words not in trained(others)
    with exclusive(folder.path):  # it is trained now
        assert words not in trained()
    out, step = trained(), load_checkpoint(folder.checkpoint).step
    assert "Run folder: runs/tiny-mlp-5\n" in out
    told = f"runs/tiny-mlp {words} and is at step {step}; to go on with it: betavae-fast train --resume runs/tiny-mlp"
    assert told in out.splitlines()
    run_in_process(capfd, "train", "--resume", str(folder.path))
    assert words not in trained()


def test_resume_goes_on_as_the_run_was_told(finished_run, capfd):
    output = run_in_process(capfd, "train", "--resume=run", "--steps=6", "--log-every=1")
    assert "Resumed after step 4" in output
    assert_usable(finished_run, step=6)
    assert [entry.step for entry in read_log(finished_run.metrics)] == [2, 4, 5, 6]
    config = load_checkpoint(finished_run.checkpoint).config
    assert (config.steps, config.log_every, config.latent_dim, config.lr) == (6, 1, 3, 0.01)


def test_a_finished_run_gets_its_summary_and_pictures_again(finished_run, capfd):
    before = {path.name: path.read_bytes() for path in finished_run.checkpoint.iterdir()}
    finished_run.summary.unlink()
    (finished_run.pictures / PICTURES[0]).write_bytes(b"half of it")
    assert "finished" in run_in_process(capfd, "train", "--resume=run")
    assert_usable(finished_run, step=4)
    assert {path.name: path.read_bytes() for path in finished_run.checkpoint.iterdir()} == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--resume=run", "--beta=2", "--seed=1"],
            "--beta, --seed cannot be given with --resume",
        ),
        # The value of the run itself is refused, too.
        (["--resume=run", "--latent-dim=3"], "--latent-dim cannot be given with --resume"),
        (["--resume=run", "--batch-size=x", "--objective=beta"], "--batch-size, --objective cannot be given"),
        (["--resume=run", "--steps=0"], "steps must be at least 1, got 0"),
        (
            ["--resume=run", "--steps=3"],
            "run is at step 4 already, so nothing is left to train up to step 3: a larger number of --steps goes",
        ),
        (["--resume=nowhere"], "nowhere is not the folder of a run; this folder has run"),
        (["--resume=nowhere/at/all"], "nowhere/at/all is not the folder of a run\n"),
        (["--resume=run/checkpoint"], "run/checkpoint is not the folder of a run\n"),
    ],
)
def test_what_cannot_be_resumed_is_one_line(finished_run, capfd, arguments, message):
    assert message in fails(capfd, "train", *arguments)


def test_a_damaged_run_is_one_line(finished_run, capfd):
    index = finished_run.checkpoint / "latest.json"
    index.write_bytes(index.read_bytes().replace(b'"step": 4', b'"step": 5'))
    assert "latest.json: damaged" in fails(capfd, "train", "--resume=run")


def test_a_run_at_work_is_one_line(finished_run, capfd):
    with exclusive(finished_run.path):
        assert "run is in use by another process" in fails(capfd, "train", "--resume=run")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--steps", "0"], ": --steps must be at least 1, got 0"),
        (["--steps", "many"], "--steps"),
        (["--beta", "-1"], ": --beta must be a finite number of at least 0, got -1.0"),
        (["--no-such-option"], "--no-such-option"),
        (["--architecture", "vgg"], "vgg"),
        (["--likelihood", "poisson"], "poisson"),
        (["--likelihood", "gaussian", "--scale", "0"], ": --scale must be a finite positive number, got 0.0"),
        (["--scale", "0.1"], "a Bernoulli likelihood has no scale, got scale=0.1"),
        (["--device", "abacus"], "'abacus'"),
        (["--backend", "abacus"], "'abacus'"),
        (["--batch-size", "65"], "--batch-size 65 is larger than the data set, which has 64 images"),
        (["--data", "nowhere.npy"], "nowhere.npy"),
        (["--batch-size", "few"], "--batch-size must be a whole number or auto, got 'few'"),
        (["--threads", "100000000"], "this machine's CPUs, got 100000000"),
        (["--accumulate", "3"], "--batch-size 64 does not split into 1 processes × 3 accumulated parts"),
        (["--precision", "fp8"], "fp8"),
        (
            ["--likelihood", "gausian"],
            "'--likelihood': 'gausian' is not one of 'bernoulli', 'gaussian', 'laplace', did",
        ),
        (["--recipe", "dsprite"], "'dsprites', did you mean 'dsprites'?\n"),
        (["--objective", "bta"], "did you mean 'beta'?\n"),
        (
            ["--initialization", "zeros"],
            "'--initialization': 'zeros' is not one of 'torch', 'glorot', 'kaiming'.\n",
        ),
        (["--lr-schedule", "sawtooth"], "sawtooth"),
    ],
)
def test_wrong_arguments_are_one_line(in_tmp_path, capfd, data, arguments, message):
    assert message in fails(capfd, "train", "--data", data, *arguments)
    assert not Path("runs").exists()


def test_images_the_architecture_cannot_take_are_one_line(in_tmp_path, capfd, tmp_path):
    np.save("odd.npy", np.zeros((64, 28, 28), dtype=bool))
    assert "28×28" in fails(capfd, "train", "--data", "odd.npy")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out=full"], "full already exists and is not an empty folder"),
        (["--image-size=60"], "60×60"),
        (
            ["--batch-size=64"],
            "the data set, which has 8 images to train on; --batch-size 8 is",
        ),
        (["--validation=0.25", "--accumulate=4"], "; --batch-size 4 is the largest that works"),
        (["--batch-size=9", "--accumulate=10"], "must be divisible by 10"),
        (["--device=abacus"], "'abacus'"),
        (["--backend=abacus"], "'abacus'"),
    ],
)
def test_what_needs_no_pixels_is_refused_before_they_are_decoded(
    in_tmp_path, capfd, monkeypatch, arguments, message
):
    for name in ("photos", "full"):
        Path(name).mkdir()
    for index in range(8):
        Image.new("L", (16, 16), index).save(f"photos/{index}.png")
    Path("full/thesis.tex").touch()
    monkeypatch.setattr("betavae_fast.data.folder._decode", None)  # must not be reached
    assert message in fails(capfd, "train", "--data=photos", "--channels=1", *arguments)


def test_a_run_folder_in_use_is_one_line(in_tmp_path, capfd, data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    assert "run already exists" in fails(capfd, "train", "--data", data, "--out", "run")


def test_an_unknown_command_is_one_line(capfd):
    assert "fly" in fails(capfd, "fly")


def test_a_loss_that_diverges_is_one_line(in_tmp_path, capfd, data):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--data", data, "--steps", "60", "--batch-size", "8", "--lr", "1e30"])
    error = capfd.readouterr().err
    assert exit_.value.code == 1
    assert error.startswith("betavae-fast: the ") and "is not finite after step" in error
    assert error.count("\n") == 1


def test_weights_that_diverge_in_the_last_update_are_not_saved(in_tmp_path, capfd, data):
    """The last loss is computed before the update and is finite."""
    options = ["--data", data, "--batch-size=16", "--latent-dim=3", "--precision=fp32", "--out=run"]
    cli_exits("train", *options, "--steps=2")
    before = {path.name: path.read_bytes() for path in RunFolder(Path("run")).checkpoint.iterdir()}
    capfd.readouterr()
    assert cli_exits("train", "--resume=run", "--steps=3", "--lr=1e38") == 1
    error = capfd.readouterr().err
    assert "is not finite after step 3" in error and error.count("\n") == 1
    assert "the checkpoint of step 2 remains" in error and "train --resume run --lr 1e+37" in error
    assert {path.name: path.read_bytes() for path in RunFolder(Path("run")).checkpoint.iterdir()} == before
    assert cli_exits("train", "--resume=run", "--steps=3", "--lr=1e-4") == 0
    assert_usable(RunFolder(Path("run")), step=3)


def test_a_run_and_its_data_may_move(in_tmp_path, capfd, data, tmp_path):
    options = ["--batch-size=16", "--latent-dim=2", "--steps=2", "--architecture=mlp", "--precision=fp32"]
    shutil.copy(data, "images.npy")
    assert cli_exits("train", "--data=images.npy", *options, "--out=run") == 0
    assert load_checkpoint(RunFolder(Path("run")).checkpoint).config.data == str(tmp_path / "images.npy")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    Path("images.npy").rename("moved.npy")
    capfd.readouterr()
    assert cli_exits("train", "--resume=run", "--steps=4") == 2
    assert "give their new path with --data" in capfd.readouterr().err
    assert cli_exits("train", "--resume=run", "--steps=4", "--data=moved.npy", "--out=copy") == 0
    assert_usable(RunFolder(Path("copy")), step=4)
    assert load_checkpoint(RunFolder(Path("copy")).checkpoint).config.data == str(tmp_path / "moved.npy")
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert cli_exits("train", "--resume=run", "--steps=4", "--data=moved.npy", "--out=copy") == 2
    assert "already exists and is not an empty folder" in capfd.readouterr().err


def test_other_images_than_the_runs_are_refused_by_number_or_by_pixels(in_tmp_path, capfd, data):
    options = ["--batch-size=16", "--latent-dim=2", "--steps=2", "--architecture=mlp", "--precision=fp32"]
    images = np.load(data)
    np.save("images.npy", images)
    assert cli_exits("train", "--data=images.npy", *options, "--out=run") == 0
    for other, told in ((images[:-1], "has 63 images of 1×8×8"), (~images, "has 64 images of 1×8×8")):
        np.save("images.npy", other)
        capfd.readouterr()
        assert cli_exits("train", "--resume=run", "--steps=4") == 2
        error = capfd.readouterr().err
        assert told in error and "but the run was trained on 64 images of 1×8×8" in error
    np.save("images.npy", images)
    assert cli_exits("train", "--resume=run", "--steps=4") == 0


def test_without_arguments_the_first_commands_are_told(capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["betavae-fast"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 8
    known = {command.callback.__name__ for command in cli.app.registered_commands}
    told = [line.split()[1] for line in lines[2:]]
    assert told[:3] == ["train", "train", "evaluate"] and set(told) <= {*known, "--help"}


def test_the_readme_and_the_first_commands_agree_on_how_to_train_on_images(capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["betavae-fast"])
    with pytest.raises(SystemExit):
        cli.main()
    (told,) = re.findall(r"betavae-fast train --data .*?(?=  #)", capfd.readouterr().out)
    assert f"| `{told.replace('FOLDER', 'photos/')} --out" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_help_groups_the_commands_by_what_people_do(capfd):
    assert cli_exits("--help") == 0
    text = capfd.readouterr().out
    wanted = [
        "Train",
        "train",
        "sweep",
        "Look",
        "evaluate",
        "traverse",
        "Use",
        "encode",
        "sample",
        "export",
        "bench",
    ]
    # A panel's title stands in its frame, a command at the beginning of a line within it.
    words = re.findall(r"^[╭│+|][ ─-]+(\w+)", text, re.MULTILINE)
    assert [word for word in words if word in wanted] == wanted


def test_train_ends_with_the_commands_to_type_next(in_tmp_path, capfd, data):
    options = ["--batch-size=16", "--latent-dim=2", "--architecture=mlp", "--precision=fp32", "--out=my run"]
    assert cli_exits("train", "--data", data, *options, "--steps=2") == 0
    out = capfd.readouterr().out
    assert "What was learned" not in out  # an array has no factors
    lines = out.partition("What to type next:\n")[2].splitlines()
    assert len(lines) == 3 and all("'my run'" in line for line in lines)
    for line in lines:
        assert cli_exits(*shlex.split(line, comments=True)[1:]) == 0, line
    assert Path("my run/report.html").exists() and Path("codes.npz").exists()


def test_train_says_what_was_learned_if_the_factors_are_known(in_tmp_path, capfd, monkeypatch):
    from betavae_fast.training import run
    from tests.evaluation.grid import Squares

    monkeypatch.setattr(run, "load_images", lambda *_, **__: Squares())
    options = [
        "--batch-size=16",
        "--latent-dim=2",
        "--lr=0.01",
        "--beta=0.1",
        "--precision=fp32",
        "--out=run",
    ]
    assert cli_exits("train", "--data=squares", *options, "--steps=60") == 0
    told = capfd.readouterr().out.partition("What was learned, by the codes of 128 images:\n")[2]
    assert re.match(r"- (Channel \d \(\d+\.\d nats\) (follows|shares|mixes)|No channel follows) ", told)


def test_info_lists_every_backend(capfd):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["info"])
    output = capfd.readouterr().out
    assert exit_.value.code == 0
    for word in ("torch", "python", "reference", "eager", "cpp", "triton", "cuda"):
        assert word in output


def test_the_scale_of_the_density_is_that_of_the_loss_and_of_the_model(in_tmp_path, capfd):
    """A hundredth of the squared error's width: the constant of the density alone tells the scales apart."""
    rng = np.random.default_rng(0)
    np.save("grey.npy", rng.integers(0, 256, (64, 16, 16), dtype=np.uint8))
    told = ["--data=grey.npy", "--likelihood=gaussian", "--steps=4", "--batch-size=16", "--latent-dim=3"]
    for scale in ("1", "0.01"):
        assert run("train", *told, f"--scale={scale}", f"--out={scale}") == 0
    printed = capfd.readouterr().out
    assert "gaussian of scale 0.01" in printed and "gaussian of scale 1" not in printed
    assert "What would help:" in printed and "--scale 0.1 opens more channels" in printed
    wide, narrow = (json.loads((Path(scale) / "summary.json").read_text()) for scale in ("1", "0.01"))
    constant = 256 * 0.5 * math.log(2 * math.pi)
    assert wide["least_reconstruction"] == pytest.approx(constant, rel=1e-5)
    assert narrow["least_reconstruction"] == pytest.approx(constant + 256 * math.log(0.01), rel=1e-5)
    assert read_log(RunFolder(Path("0.01")).metrics)[-1].reconstruction > 1e4  # squared errors over 2 × 1e-4
    assert open_run("0.01").model.scale == 0.01

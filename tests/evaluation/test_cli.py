"""``evaluate`` and ``traverse`` as a user sees them, on a data set of 128 images with known factors."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import betavae_fast.data
import betavae_fast.evaluation.evaluate
from betavae_fast import cli
from betavae_fast.data import ByteImages, DatasetError
from betavae_fast.evaluation import report
from betavae_fast.evaluation.encoding import encode
from betavae_fast.evaluation.evaluate import evaluate
from betavae_fast.evaluation.factor_table import factor_table
from betavae_fast.evaluation.scores import Estimate
from betavae_fast.evaluation.summary import choose_images
from betavae_fast.files import read_json
from betavae_fast.training.trained_run import open_run
from tests import PATIENCE
from tests.commands import run
from tests.evaluation.grid import Squares
from tools.publish import publish

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PICTURES = {
    "reconstructions.png", "traversal.png", "traversal.gif", "capacity.png", "information.png",
    "code-against-factor.png", "position-maps.png", "aggregated-posterior.png",
}  # fmt: skip


class Unlabelled(ByteImages):
    """The same images without known factors."""

    def __init__(self) -> None:
        squares = Squares()
        super().__init__("unlabelled", squares.store, squares.image_shape)


class Brighter(ByteImages):
    """Other images of the same shape."""

    def __init__(self) -> None:
        squares = Squares()
        super().__init__("brighter", squares.store | 1, squares.image_shape)


def load(name: str, **_: object) -> ByteImages:
    return {"squares": Squares, "unlabelled": Unlabelled, "brighter": Brighter}[Path(name).name]()


def train(folder: Path, *options: str) -> None:
    told = ["--steps=6", "--batch-size=32", "--latent-dim=3", "--log-every=3", f"--out={folder}", *options]
    assert run("train", *told) == 0


@pytest.fixture(scope="module", autouse=True)
def tiny_data():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(betavae_fast.data, "load_dataset", load)
        patch.setattr(cli.train, "_summarise", lambda *_: None)  # `evaluate` draws the same pictures again
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Train two runs, <one> & two, which are evaluated together, and a third one on data without factors.

    The first uses no channel. The large steps of the others leave channels of a nat or more.
    """
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "<one> & only", "--data=squares")
    train(folder / "two", "--data=squares", "--beta=1", "--seed=1", "--lr=0.03")
    train(folder / "unlabelled", "--data=unlabelled", "--beta=1", "--seed=1", "--lr=0.03")
    before = digests(folder / "two" / "checkpoint")
    evaluated = [str(folder / "<one> & only"), str(folder / "two")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the comparison is written there
        assert run("evaluate", *evaluated, "--seed=3") == 0
    assert digests(folder / "two" / "checkpoint") == before
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_evaluate_leaves_numbers_pictures_and_a_report(runs):
    folder = runs / "two"
    written = read_json(folder / "evaluation.json")
    assert (written["images"], written["seed"]) == (128, 3)
    assert written["factors"]["names"] == ["size", "posX", "posY"]
    kinds = [(scored["metric"], scored["codes"]) for scored in written["scores"]]
    assert kinds == [
        ("beta-vae", "mean"), ("factor-vae", "mean"), ("mig", "mean"), ("mig", "sampled"), ("sap", "mean"),
        ("modularity", "mean"), ("modularity", "sampled"), ("explicitness", "mean"), ("irs", "mean"),
        ("unsupervised", "mean"),
    ]  # fmt: skip
    assert {path.name for path in (folder / "pictures").iterdir()} == PICTURES
    report = unescape((folder / "report.html").read_text())
    for sentence in written["findings"]:
        assert sentence in report
    mig = next(scored for scored in written["scores"] if scored["metric"] == "mig")
    told = [Estimate(**mig[key]["score"]) for key in ("values", "in_use")]
    assert told[0].spread > 0
    cells = "".join(f'<td class="number">{estimate}</td>' for estimate in told)
    assert f"<td>MIG</td><td>mean</td>{cells}" in report


def test_a_published_run_is_evaluated_and_drawn_but_not_trained_on(runs, tmp_path, capfd):
    published = tmp_path / "published"
    publish(runs / "two", published)
    assert {path.name for path in published.iterdir()} == {
        "README.md", "checkpoint", "config.json", "metrics.jsonl", "traversal.gif",
    }  # fmt: skip
    sizes = [
        sum(file.stat().st_size for file in (folder / "checkpoint").iterdir())
        for folder in (published, runs / "two")
    ]
    assert sizes[0] < 0.35 * sizes[1]
    again = tmp_path / "again"
    assert run("evaluate", str(published), "--seed=3", f"--out={again}") == 0
    found, expected = read_json(again / "evaluation.json"), read_json(runs / "two" / "evaluation.json")
    assert (found["learned"], found["summary"]) == (expected["learned"], expected["summary"])
    assert run("traverse", str(published), f"--out={tmp_path}") == 0
    capfd.readouterr()
    assert run("train", "--resume", str(published)) != 0
    assert "a published model without its optimizer, which cannot be trained on" in capfd.readouterr().err
    with pytest.raises(FileExistsError, match="is not empty"):
        publish(runs / "two", published)


def test_the_card_of_a_published_run_says_what_it_learned_and_how_it_was_trained(runs, tmp_path):
    publish(runs / "two", tmp_path / "published")
    card = (tmp_path / "published" / "README.md").read_text(encoding="utf-8")
    written = read_json(runs / "two" / "evaluation.json")
    assert all(f"- {sentence}\n" in card for sentence in written["findings"])
    mean, sampled = (scored for scored in written["scores"] if scored["metric"] == "mig")
    cells = " | ".join(
        f"{scored['values']['score']['value']:.3f} ± {scored['values']['score']['spread']:.3f}"
        for scored in (mean, sampled)
    )
    assert f"| MIG | {cells} |" in card
    (told,) = re.findall(r"^betavae-fast train (.*)$", card, re.MULTILINE)
    again = tmp_path / "again"
    assert run("train", *shlex.split(told), "--log-every=3", f"--out={again}") == 0
    (one,), (two,) = (list((folder / "checkpoint").glob("model-*")) for folder in (again, runs / "two"))
    assert one.read_bytes() == two.read_bytes()


def test_the_report_opens_with_the_channels_in_use_and_a_strip_of_each(runs):
    learned = read_json(runs / "two" / "evaluation.json")["learned"]
    used = [row["channel"]["index"] for row in learned["channels"]]
    assert used
    report = (runs / "two" / "report.html").read_text()
    opening = report[: report.index("<h2>Scores</h2>")]
    shown = re.findall(r'src="(data:image/png;base64,[^"]+)" alt="Traversal of channel (\d)"', opening)
    assert [int(index) for _, index in shown] == used
    assert len({strip for strip, _ in shown}) == len(used)  # a strip of its own for each
    assert "A channel follows a factor if it knows at least 25%" in opening
    assert all(row["relation"] in ("follows", "shares", "mixes", "none") for row in learned["channels"])
    assert all(
        f"{rest['factor']} (channel {rest['channel']} knows" in opening for rest in learned["unfollowed"]
    )


def test_a_report_says_if_no_channel_is_in_use(runs):
    report = (runs / "<one> & only" / "report.html").read_text()
    assert "None of 3 channels is used" in report and "Traversal of channel" not in report
    assert '<td class="number">no channel in use</td>' in report


def test_the_terminal_tells_what_was_learned_and_both_kinds_of_scores(runs, tmp_path, capsys):
    assert run("evaluate", str(runs / "two"), "--metrics=mig,unsupervised", f"--out={tmp_path}") == 0
    lines = capsys.readouterr().out.splitlines()
    written = read_json(tmp_path / "evaluation.json")
    assert [line[2:] for line in lines[1 : 1 + len(written["findings"])]] == written["findings"]
    mig = next(scored for scored in written["scores"] if scored["metric"] == "mig")
    (row,) = (line for line in lines if line.split()[:1] == ["MIG"] and "sampled" not in line)
    assert row.split("MIG")[1].split() == [
        word for key in ("values", "in_use") for word in str(Estimate(**mig[key]["score"])).split()
    ]


def test_a_report_needs_nothing_but_itself_and_escapes_what_it_is_told(runs):
    report = (runs / "<one> & only" / "report.html").read_text()
    assert "&lt;one&gt; &amp; only" in report and "<one>" not in report
    assert "<script" not in report  # it uses no channel, so there is nothing to explore
    assert not re.search(r"""(src|href)=["'](?!data:)""", report)
    used = len(read_json(runs / "<one> & only" / "evaluation.json")["learned"]["channels"])
    assert len(re.findall(r'src="data:image/(png|gif);base64,', report)) == len(PICTURES) + used


def test_an_explorer_needs_no_network_and_names_channels_like_the_report(runs):
    report = (runs / "two" / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", report)
    assert (
        "http" not in report.split("<script>")[1].split("</script>")[0]
    )  # pictures may have any four letters
    packed = json.loads(re.search(r'id="decoder">(.*)</script>', report)[1])
    learned = read_json(runs / "two" / "evaluation.json")["learned"]["channels"]
    assert [slider["channel"] for slider in packed["sliders"]] == [row["channel"]["index"] for row in learned]
    assert report.count("data-start=") == len(packed["starts"]) == 8


def test_the_comparison_has_a_column_for_each_run(runs):
    report = (runs / "comparison" / "report.html").read_text()
    compared = read_json(runs / "comparison" / "comparison.json")
    assert [entry["run"] for entry in compared["runs"]] == ["<one> & only", "two"]
    assert len(compared["udr"]["scores"]) == 2
    assert report.count("data:image/png;base64,") == 1  # the picture of rate and distortion
    assert '<th class="number">two</th>' in report and "<td>UDR</td>" in report


def test_python_leaves_the_files_of_the_command(runs, tmp_path):
    done = []
    for name in ("<one> & only", "two"):
        trained = open_run(runs / name)
        assert trained.step == 6 and [entry.step for entry in trained.history] == [3, 6]
        evaluation = evaluate(trained.model, trained.images(), seed=3, precision=trained.precision)
        folder = tmp_path / name
        assert report.write(trained, evaluation, folder) == folder / "report.html"
        assert digests(folder / "pictures") == digests(runs / name / "pictures")
        assert (folder / "report.html").read_bytes() == (runs / name / "report.html").read_bytes()
        written, by_command = (read_json(place / "evaluation.json") for place in (folder, runs / name))
        assert written.keys() == by_command.keys()
        for key in written.keys() - {"scores", "seconds"}:
            assert written[key] == by_command[key]
        done.append((trained, evaluation))
    report.compare(done, tmp_path / "comparison", seed=3)
    assert digests(tmp_path / "comparison") == digests(runs / "comparison")


def test_codes_that_are_not_finite_are_refused_whatever_the_metrics(runs):
    trained = open_run(runs / "unlabelled")
    with torch.no_grad():
        next(trained.model.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="codes must be finite, got nan in row 0, column 0"):
        evaluate(trained.model, trained.images(), ["mig"])  # needs factors, so nothing is scored


def test_a_comparison_needs_two_runs(tmp_path):
    with pytest.raises(ValueError, match="compare: runs must be at least two, got 0"):
        report.compare([], tmp_path)


def test_other_images_of_another_shape_are_refused(runs, monkeypatch):
    monkeypatch.setattr(
        betavae_fast.data,
        "load_dataset",
        lambda *_, **__: ByteImages("wide", torch.zeros(4, 1, 8, 9).byte(), (1, 8, 9)),
    )
    with pytest.raises(ValueError, match=r"takes images of shape \(1, 8, 8\), but .*wide has \(1, 8, 9\)"):
        open_run(runs / "two", "cpu", data="wide").images()


def test_data_without_factors_get_what_needs_none(runs):
    folder = runs / "unlabelled"
    assert run("evaluate", str(folder), "--metrics=all") == 0
    written = read_json(folder / "evaluation.json")
    assert written["factors"] is None and written["learned"]["unfollowed"] == []
    assert {row["relation"] for row in written["learned"]["channels"]} == {"unknown"}
    report = (folder / "report.html").read_text()
    assert report.count('alt="Traversal of channel') == len(written["learned"]["channels"])
    assert "A channel follows a factor" not in report
    assert [scored["metric"] for scored in written["scores"]] == ["unsupervised"]
    drawn = {path.name for path in (folder / "pictures").iterdir()}
    assert "aggregated-posterior.png" in drawn and "information.png" not in drawn


def test_out_takes_all_results_and_runs_of_one_name_are_told_apart(runs, tmp_path, capsys):
    for place in ("first", "second"):
        shutil.copytree(runs / "two", tmp_path / place / "run")
    told = [str(tmp_path / place / "run") for place in ("first", "second")]
    before = [digests(Path(path) / "pictures") for path in told]
    assert run("evaluate", *told, "--metrics=sap", f"--out={tmp_path / 'results'}") == 0
    assert [digests(Path(path) / "pictures") for path in told] == before
    compared = read_json(tmp_path / "results" / "comparison.json")
    assert [entry["run"] for entry in compared["runs"]] == ["first/run", "second/run"]
    for place in ("first", "second"):
        assert (tmp_path / "results" / place / "run" / "report.html").exists()


def test_some_images_are_drawn_at_random_for_a_first_look(runs, tmp_path):
    """The codes and their factors stay together: a table of the same rows by hand is the same."""
    told = [str(runs / "two"), "--images=100", "--metrics=mig", f"--out={tmp_path}"]
    assert run("evaluate", *told) == 0
    written = read_json(tmp_path / "evaluation.json")
    assert written["images"] == 100
    assert "100 of 128 images, drawn at random" in (tmp_path / "report.html").read_text()
    trained = open_run(runs / "two")
    dataset = trained.images()
    whole = encode(trained.model, dataset, precision=trained.precision).mean_codes
    rows = choose_images(128, 100).sort().values
    table = factor_table(whole[rows], dataset, np.random.default_rng(0), rows)
    np.testing.assert_allclose(written["factors"]["shares"], table.shares, rtol=0, atol=1e-3)
    assert run("evaluate", str(runs / "two"), "--images=1000", "--metrics=mig", f"--out={tmp_path}") == 0
    assert "<td>measured on</td><td>128 images</td>" in (tmp_path / "report.html").read_text()


def test_a_factor_with_a_single_value_in_the_rows_drawn_is_named(runs, tmp_path, capfd):
    told = ["evaluate", str(runs / "two"), "--metrics=dci", "--dci-rows=1", f"--out={tmp_path}"]
    assert run(*told) == 2
    expected = "two: 1 rows are too few: factor 'size' has a single value in the rows drawn"
    assert capfd.readouterr().err.splitlines()[-1].endswith(expected)  # color never varies, and is not scored


def test_images_other_than_the_trainings_are_named(runs, tmp_path, capsys):
    """The user may want them, as with held-out images, so the evaluation continues."""
    whole, told = runs / "two", ["--data=unlabelled", "--metrics=unsupervised", f"--out={tmp_path}"]
    assert run("evaluate", str(whole), *told) == 0  # the same pixels under another name
    assert "Other images" not in capsys.readouterr().out
    assert read_json(tmp_path / "evaluation.json")["identity"]["images"] == 128
    assert run("evaluate", str(whole), "--data=brighter", *told[1:]) == 0
    said = capsys.readouterr().out
    assert "These are not the training images: brighter has 128 images of 1×8×8 with SHA-256" in said
    assert run("traverse", str(whole), "--data=brighter", "--image=3", f"--out={tmp_path}") == 0
    assert "These are not the training images" in capsys.readouterr().out


def test_a_traversal_of_the_prior_needs_no_data(runs, tmp_path, monkeypatch, capsys):
    def nowhere(*_: object, **__: object) -> None:
        raise DatasetError("the images are gone")

    monkeypatch.setattr(betavae_fast.data, "load_dataset", nowhere)
    assert run("traverse", str(runs / "two"), f"--out={tmp_path}") == 0
    assert f"The prior's mean: {tmp_path / 'traversal.png'}" in capsys.readouterr().out
    assert run("traverse", str(runs / "two"), "--image=0", f"--out={tmp_path}") == 2
    assert "give their new path with --data" in capsys.readouterr().err


def test_an_interrupted_run_is_evaluated(runs, tmp_path):
    """The run was killed while it wrote a line of its log."""
    shutil.copytree(runs / "two", tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(log.read_bytes() + b'{"step": 7, "ima')
    assert run("evaluate", str(tmp_path / "run"), "--metrics=unsupervised") == 0


def test_results_that_cannot_be_written_are_refused_before_the_work(runs, tmp_path, capfd, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(betavae_fast.evaluation.evaluate, "evaluate", None)  # must not be reached
    assert run("evaluate", str(runs / "two"), f"--out={tmp_path / 'file' / 'results'}") == 2
    error = capfd.readouterr().err
    assert "no results can be written there" in error and "--out" in error and error.count("\n") == 1


@pytest.mark.parametrize("over", ["prior", "posterior"])
def test_traverse_draws_a_still_and_a_moving_picture(runs, tmp_path, over):
    options = ["--image=7", f"--over={over}", "--columns=5", "--channels=2", f"--out={tmp_path}"]
    assert run("traverse", str(runs / "two"), *options) == 0
    with Image.open(tmp_path / "traversal.gif") as moving, Image.open(tmp_path / "traversal.png") as still:
        assert moving.n_frames == 40
        assert min(still.size) > 200


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "nowhere"], "nowhere is not the folder of a run"),
        (
            ["evaluate", "PARENT"],
            "PARENT is not the folder of a run; PARENT has <one> & only, two, unlabelled\n",
        ),
        (
            ["evaluate", "PARENT/three"],
            "three is not the folder of a run; PARENT has <one> & only, two, unlabelled",
        ),
        (["evaluate"], "Missing argument"),
        (["evaluate", "RUN", "--metrics=mig,magic"], "unknown metric 'magic': give all, or some of beta-vae"),
        (["evaluate", "RUN", "--metrics=all,foo"], "unknown metric 'foo': give all, or some of beta-vae"),
        (["evaluate", "RUN", "--metrics=dcii"], "unsupervised, did you mean 'dci'?"),
        (["evaluate", "RUN", "--seed=-1"], "seed must be at least 0, got -1"),
        (["evaluate", "RUN", "--jobs=0"], "jobs must not be 0"),
        (["evaluate", "RUN", "--dci-rows=0"], "--dci-rows must be at least 1, got 0"),
        (["evaluate", "RUN", "--images=0"], "images must be at least 1, got 0"),
        (["evaluate", "RUN", "--threads=0"], "this machine's CPUs, got 0"),
        (["evaluate", "RUN", "--device=abacus"], "'abacus'"),
        (["traverse", "nowhere"], "nowhere is not the folder of a run"),
        (["traverse", "RUN", "--image=128"], "image must be in [0, 128), got 128"),
        (["traverse", "RUN", "--extent=0"], "extent must be a finite positive number, got 0.0"),
        (["traverse", "RUN", "--columns=1"], "columns must be at least 2, got 1"),
        (["traverse", "RUN", "--over=moon"], "moon"),
    ],
)
def test_what_cannot_be_done_is_one_line(runs, capfd, arguments, message):
    told = [argument.replace("RUN", str(runs / "two")).replace("PARENT", str(runs)) for argument in arguments]
    message = message.replace("PARENT", str(runs))
    assert run(*told) == 2
    captured = capfd.readouterr()
    assert captured.err.startswith("betavae-fast: ") and captured.err.count("\n") == 1
    assert message in captured.err and captured.out == ""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(
    "report, width", [("two/report.html", 1280), ("two/report.html", 390), ("comparison/report.html", 390)]
)
def test_a_browser_shows_the_report_without_a_complaint(runs, tmp_path, report, width):
    picture = tmp_path / "shot.png"
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--hide-scrollbars",
            f"--window-size={width},1200", f"--screenshot={picture}", (runs / report).as_uri(),
        ],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    with Image.open(picture) as shot:
        assert shot.width == width
        colours = shot.convert("RGB").getcolors(1 << 24)
    assert len(colours) > 50  # text and pictures, not an empty page

"""``betavae-fast export`` as a user sees it, and the files that it writes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from betavae_fast.evaluation.encoding import Encoder
from betavae_fast.export import onnx, write_hub, write_onnx, write_pt2
from betavae_fast.export.programs import check, programs
from betavae_fast.files import read_json, write_json
from betavae_fast.nn import BetaVAE
from betavae_fast.training.trained_run import open_run
from tests.backends import ROOT
from tests.commands import run
from tests.evaluation.grid import Squares

EXAMPLE = ROOT / "examples" / "dsprites"
ONNX = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="onnx, onnxscript and onnxruntime are not installed",
)
FORMATS = [pytest.param("onnx", marks=ONNX), "pt2"]
WRITERS = {"onnx": write_onnx, "pt2": write_pt2}


def fails(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with one line, and return the line."""
    assert run(*arguments) == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert error.startswith("betavae-fast: ")
    return error


def opened(path: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    """The function in a written file, as its own library loads it. The input is given by name."""
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        return lambda x: result if isinstance(result := program(x), tuple) else [result]
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (input.name for input in session.get_inputs())
    assert name == {"encoder": "images", "decoder": "z"}[path.stem]
    names = [output.name for output in session.get_outputs()]
    assert names == {"encoder": ["mu", "logvar"], "decoder": ["images"]}[path.stem]
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})]


def bytes_of(count: int, shape: tuple[int, ...], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run on the squares, as an array."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "squares.npy", Squares().gather(torch.arange(128)).numpy()[:, 0] // 2)
    told = ["--steps=6", "--batch-size=32", "--latent-dim=3", "--lr=0.03", "--precision=fp32"]
    assert run("train", f"--data={folder / 'squares.npy'}", *told, f"--out={folder / 'run'}") == 0
    return folder / "run"


@pytest.mark.parametrize("format", FORMATS)
def test_the_shipped_model_computes_the_same_in_its_files(format, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert run("export", str(EXAMPLE), f"--format={format}", f"--out={out}") == 0
    assert f"{out / 'encoder'}.{format}, " in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {f"encoder.{format}", f"decoder.{format}"}
    pixels = bytes_of(5, (1, 64, 64))
    expected = Encoder.from_run(EXAMPLE, "cpu")(pixels)
    mu, logvar = opened(out / f"encoder.{format}")(pixels.float() / 255)
    torch.testing.assert_close(mu, expected.mu, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logvar, expected.logvar, rtol=1e-4, atol=1e-4)
    model = open_run(EXAMPLE, "cpu").model
    (images,) = opened(out / f"decoder.{format}")(mu)
    with torch.no_grad():
        torch.testing.assert_close(images, model.pixels(model.decode(mu)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_are_divided_by_255_inside(format, trained, tmp_path):
    pixels, found = bytes_of(5, (1, 8, 8)), {}
    for kind, images in (("float", pixels.float() / 255), ("uint8", pixels)):
        out = tmp_path / kind
        assert run("export", str(trained), f"--format={format}", f"--input={kind}", f"--out={out}") == 0
        found[kind] = opened(out / f"encoder.{format}")(images)
    for of_floats, of_bytes in zip(found["float"], found["uint8"], strict=True):
        torch.testing.assert_close(of_bytes, of_floats, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("architecture", ["locatello", "mlp"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_file_takes_a_batch_of_any_size(format, architecture, tmp_path):
    model = BetaVAE((3, 8, 8), 2, architecture, likelihood="gaussian").eval()
    encoder, decoder = map(opened, WRITERS[format](model, tmp_path))
    images = bytes_of(5, (3, 8, 8)).float() / 255
    (mu, _), (decoded,) = encoder(images), decoder(torch.ones(5, 2))
    assert mu.shape == (5, 2) and decoded.shape == (5, 3, 8, 8)
    torch.testing.assert_close(encoder(images[3:4])[0], mu[3:4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decoder(torch.ones(1, 2))[0], decoded[3:4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_the_range_of_the_log_variance_is_respected(format, tmp_path):
    model = BetaVAE((1, 8, 8), 3, logvar_range=(-0.001, 0.001)).eval()
    encoder, _ = WRITERS[format](model, tmp_path)
    images = bytes_of(5, (1, 8, 8)).float() / 255
    with torch.no_grad():
        assert model.encode(images)[1].abs().max() > 0.01
    assert opened(encoder)(images)[1].abs().max() == np.float32(0.001)


def test_a_program_needs_no_library_and_tells_no_path(tmp_path):
    write_pt2(BetaVAE((1, 8, 8), 3), tmp_path)
    code = (
        "import sys, torch; program = torch.export.load('encoder.pt2').module(); "
        "program(torch.zeros(2, 1, 8, 8)); assert 'betavae_fast' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    encoder, _ = programs(BetaVAE((1, 8, 8), 3), "float")
    assert not any("stack_trace" in node.meta for node in encoder.exported.graph.nodes)


def test_exporting_leaves_the_model_and_the_noise_as_they_are(tmp_path):
    model, state = BetaVAE((1, 8, 8), 3).double().train(), torch.get_rng_state()
    write_pt2(model, tmp_path)
    assert model.training and {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert len(model.decoder) > 1 and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_file_that_computes_something_else_is_refused(error):
    encoder, _ = programs(BetaVAE((1, 8, 8), 3).eval(), "float")
    exact = encoder.exported.module()
    check("encoder.pt2", encoder, exact)
    with pytest.raises(ValueError, match=r"encoder\.pt2: logvar differs from the model's by .* for 1 inputs"):
        check("encoder.pt2", encoder, lambda x: (exact(x)[0], exact(x)[1] + error))


@ONNX
def test_a_wrong_translation_leaves_no_file(trained, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(onnx, "_runner", lambda program, content: lambda x: [torch.zeros(len(x), 3)] * 2)
    out = tmp_path / "out"
    error = fails(capfd, "export", str(trained), "--format=onnx", f"--out={out}")
    assert "encoder.onnx: mu differs from the model's by" in error and not out.exists()


def test_without_its_packages_onnx_says_what_to_install(trained, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxruntime" else name)
    error = fails(capfd, "export", str(trained), "--format=onnx", f"--out={tmp_path / 'out'}")
    assert "needs onnxruntime, which is not installed: pip install onnxruntime" in error
    assert not list(tmp_path.iterdir())


def test_a_hub_folder_has_model_recipe_and_pictures(trained, tmp_path, capsys):
    out = tmp_path / "hub"
    assert run("export", str(trained), "--format=hub", f"--out={out}", "--license=cc-by-4.0") == 0
    assert f"{out / 'model.safetensors'}, " in capsys.readouterr().out
    model, images = BetaVAE.from_pretrained(out), bytes_of(5, (1, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(model.encode(images), open_run(trained, "cpu").model.encode(images))
    header, card = re.fullmatch(
        r"---\n(.*?)\n---\n\n(.*)", (out / "README.md").read_text(), re.DOTALL
    ).groups()
    assert "license: cc-by-4.0\nlibrary_name: betavae_fast\npipeline_tag: image-feature-extraction" in header
    assert "betavae-fast train --data squares.npy " in card and str(trained.parent) not in card
    assert "It was trained for 6 steps on 192 images" in card and "| score |" not in card
    shown = re.findall(r"!\[\w+\]\((.*)\)", card)
    assert "pictures/traversal.png" in shown and all((out / picture).is_file() for picture in shown)


def test_the_best_model_is_exported(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    told = [
        "--steps=6",
        "--batch-size=32",
        "--latent-dim=3",
        "--lr=0.03",
        "--precision=fp32",
        "--validation=0.2",
    ]
    data = f"--data={trained.parent / 'squares.npy'}"
    assert run("train", data, *told, "--validation-every=1", f"--out={folder}") == 0
    best = open_run(folder, "cpu", kept="best")
    capsys.readouterr()
    assert run("export", str(folder), "--format=hub", "--checkpoint=best", f"--out={tmp_path / 'hub'}") == 0
    assert f", after step {best.step}\n" in capsys.readouterr().out
    for name, weights in BetaVAE.from_pretrained(tmp_path / "hub").state_dict().items():
        assert torch.equal(weights, best.model.state_dict()[name])


def test_an_earlier_model_does_not_get_the_pictures_of_the_latest(trained, tmp_path):
    latest = open_run(trained, "cpu")
    write_hub(latest, tmp_path / "latest")
    write_hub(replace(latest, step=latest.step - 1), tmp_path / "earlier")
    assert (tmp_path / "latest" / "pictures").is_dir() and not (tmp_path / "earlier" / "pictures").exists()
    assert "pictures/" not in (tmp_path / "earlier" / "README.md").read_text()


def test_an_evaluated_run_has_its_scores_on_the_card(trained, tmp_path, capfd):
    assert run("evaluate", str(trained), "--metrics=unsupervised") == 0
    evaluation = trained / "evaluation.json"
    try:
        assert run("export", str(trained), "--format=hub", f"--out={tmp_path / 'hub'}") == 0
        found = read_json(evaluation)
        card = (tmp_path / "hub" / "README.md").read_text()
        assert f"- {found['findings'][0]}" in card and "| −ELBO | " in card and "| score |" in card
        write_json(evaluation, found | {"step": 3})
        capfd.readouterr()
        error = fails(capfd, "export", str(trained), "--format=hub", f"--out={tmp_path / 'later'}")
        assert f"{evaluation}: of step 3, but the model is of step 6; evaluate the run again" in error
        assert not (tmp_path / "later").exists()
    finally:
        evaluation.unlink()


def test_the_shipped_model_becomes_a_hub_folder(tmp_path):
    assert run("export", str(EXAMPLE), "--format=hub", f"--out={tmp_path}") == 0
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"README.md", "config.json", "model.safetensors", "pictures/traversal.gif"}
    assert BetaVAE.from_pretrained(tmp_path).image_shape == (1, 64, 64)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--format=tflite"], "tflite"),
        ([], "--format"),
        (["--format=hub", "--input=uint8"], "input is for onnx and pt2"),
        (["--format=pt2", "--input=int8"], "int8"),
        (["--format=pt2", "--license=mit"], "license is for the card of hub, got 'mit' for pt2"),
        (["--format=hub", "--license=My License"], "license must be a name such as apache-2.0"),
    ],
)
def test_what_cannot_be_done_is_one_line(trained, tmp_path, capfd, options, message):
    assert message in fails(capfd, "export", str(trained), f"--out={tmp_path / 'out'}", *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["onnx", "pt2", "hub"])
def test_a_folder_with_something_in_it_is_refused(format, trained, tmp_path, capfd):
    (tmp_path / "mine").write_text("mine")
    error = fails(capfd, "export", str(trained), f"--format={format}", f"--out={tmp_path}")
    assert f"{tmp_path} already exists and is not an empty folder" in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_no_run_is_one_line(tmp_path, capfd):
    assert "nowhere is not the folder of a run" in fails(
        capfd, "export", str(tmp_path / "nowhere"), "--format=pt2"
    )

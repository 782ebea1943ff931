"""The explorer of a report: the page decodes as the model does, and its controls move the code."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jinja2 import Environment, PackageLoader
from torch import nn

from betavae_fast.evaluation.explorer import MOST_WEIGHTS, explorer, pack
from betavae_fast.evaluation.summary import Channel
from betavae_fast.nn import BetaVAE
from tests import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NODE = shutil.which("node")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
CHANNELS = [Channel(2, 1.0, 0.5, 0.5, True), Channel(0, 0.8, 0.5, 0.3, True)]
MODELS: dict[str, dict[str, Any]] = {
    "burgess": {"image_shape": (1, 64, 64)},
    "locatello": {"image_shape": (3, 32, 32), "architecture": "locatello"},
    "gaussian": {"image_shape": (3, 16, 16), "likelihood": "gaussian"},
}
SCRIPT = Environment(loader=PackageLoader("betavae_fast.evaluation")).get_template("explorer.js").render()


def model_of(name: str) -> BetaVAE:
    torch.manual_seed(0)
    model = BetaVAE(latent_dim=4, **MODELS[name]).eval()
    with torch.no_grad():  # outputs as large as trained ones
        for parameter in model.decoder.parameters():
            parameter *= 2.0
    return model


def packed_of(model: BetaVAE) -> dict[str, Any]:
    packed = explorer(model, torch.rand(2, *model.image_shape), CHANNELS, {2: "posX <&>"})
    assert packed is not None
    return packed


def pixels_of(model: BetaVAE, codes: torch.Tensor) -> np.ndarray:
    """The images that torch decodes, (N, H, W, C)."""
    with torch.no_grad():
        return model.pixels(model.decode(codes)).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("name", ["burgess", "locatello", "gaussian"])
def test_the_script_decodes_as_torch_does(name: str) -> None:
    model = model_of(name)
    codes = 1.5 * torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    driver = """
        const { packed, codes } = JSON.parse(require("fs").readFileSync(0, "utf8"));
        const decode = makeDecoder(packed);
        console.log(JSON.stringify(codes.map((code) => Array.from(decode(code)))));
    """
    done = subprocess.run(
        [NODE, "-e", SCRIPT + driver],
        input=json.dumps({"packed": packed_of(model), "codes": codes.tolist()}),
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    expected = pixels_of(model, codes)
    assert expected.std() > 0.02  # no flat images, which any decoder would give
    found = np.array(json.loads(done.stdout)).reshape(expected.shape)
    assert abs(found - expected).max() < 1 / 255


def test_weights_are_rows_of_taps_and_inputs() -> None:
    layer = nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1)
    layers, weights = pack(nn.Sequential(layer, nn.Tanh()))
    assert layers[0] == {
        "kind": "transposed", "inputs": 2, "outputs": 3, "kernel": 4, "stride": 2, "padding": 1,
    }  # fmt: skip
    rows = weights[: 4 * 4 * 2 * 3].reshape(4, 4, 2, 3)
    np.testing.assert_array_equal(rows[1, 2, 0], layer.weight[0, :, 1, 2].detach())
    np.testing.assert_array_equal(weights[-3:], layer.bias.detach())


def test_a_page_holds_half_the_bytes_and_the_starts() -> None:
    model = model_of("burgess")
    packed = packed_of(model)
    halves = np.frombuffer(base64.b64decode(packed["weights"]), "<f2")
    assert len(halves) == sum(parameter.numel() for parameter in model.decoder.parameters())
    assert [slider["channel"] for slider in packed["sliders"]] == [2, 0]
    assert [slider["name"] for slider in packed["sliders"]] == ["posX <&>", "Channel 0"]
    assert len(packed["starts"]) == 2 and len(packed["starts"][0]) == 4


def test_the_slider_reaches_the_codes() -> None:
    model = model_of("burgess")
    with torch.no_grad():
        model.encoder.moments.bias[0] = -7.3
    packed = explorer(
        model, torch.rand(3, 1, 64, 64), [Channel(0, 1, 1, 0, True), Channel(1, 1, 1, 0, True)], {}
    )
    extents = [slider["extent"] for slider in packed["sliders"]]
    assert 7 <= extents[0] <= 9 and extents[1] == 3


@pytest.mark.parametrize(
    "decoder",
    [
        nn.Linear(4, 64),
        nn.Sequential(nn.Linear(4, 64), nn.GELU()),
        nn.Sequential(nn.Linear(4, 64), nn.Flatten()),
        nn.Sequential(nn.ConvTranspose2d(4, 4, 3, groups=2)),
        nn.Sequential(nn.ConvTranspose2d(4, 4, (3, 5))),
        nn.Sequential(nn.ConvTranspose2d(4, 4, 3, stride=2, output_padding=1)),
        nn.Sequential(nn.ConvTranspose2d(4, 4, 3, dilation=2)),
        nn.Sequential(nn.Linear(1000, MOST_WEIGHTS // 1000 + 1)),
    ],
)
def test_other_decoders_are_left_out(decoder: nn.Module) -> None:
    assert pack(decoder) is None


def page(tmp_path: Path, model: BetaVAE, then: str) -> Path:
    """A page with the explorer and a script that runs after it, whose result becomes the text of <pre>.

    Chromium draws no frames while it dumps a page, so that callbacks before the next frame have to come by a timer.
    """
    templates = Environment(
        loader=PackageLoader("betavae_fast.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    inner = templates.get_template("explorer.html.jinja").render(
        explorer=packed_of(model), starts=["data:,"] * 2
    )
    path = tmp_path / "page.html"
    path.write_text(
        "<!doctype html><meta charset=utf-8><link rel=icon href='data:,'>"
        "<script>requestAnimationFrame = (draw) => setTimeout(draw, 0)</script>"
        f"{inner}<pre></pre><script>{then}</script>",
        encoding="utf-8",
    )
    return path


def result_of(page: Path, profile: Path) -> Any:
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0 and "CONSOLE" not in done.stderr, done.stderr
    return json.loads(done.stdout.split("<pre>")[1].split("</pre>")[0])


@needs_chromium
def test_the_controls_move_the_code_and_the_canvas_follows(tmp_path: Path) -> None:
    """Starts, moves a slider, resets it by a double click, and reads the canvas each time."""
    model = model_of("burgess")
    packed = packed_of(model)
    then = """
        const root = document.getElementById("explorer");
        const slider = root.querySelector("[data-channel='2']");
        const canvas = root.querySelector("canvas");
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
        const shown = () => new Promise((done) => setTimeout(() => {
          copy.drawImage(canvas, 0, 0);
          const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
          done(Array.from(data).filter((_, i) => i % 4 === 0));
        }, 500));
        (async () => {
          const result = [await shown()];
          root.querySelector("[data-start='1']").click();
          result.push(await shown());
          slider.value = "2.5";
          slider.dispatchEvent(new Event("input"));
          result.push(await shown());
          const told = root.querySelector("output[for='slider-2']").value;
          slider.dispatchEvent(new Event("dblclick"));
          result.push(await shown());
          slider.value = "-1";
          slider.dispatchEvent(new Event("input"));
          root.querySelector("[data-action=reset]").click();
          result.push(await shown());
          let saved = null;
          HTMLAnchorElement.prototype.click = function () { saved = [this.download, this.href.slice(0, 22)]; };
          root.querySelector("[data-action=save]").click();
          const pressed = [...root.querySelectorAll("[data-start]")].map((one) => one.getAttribute("aria-pressed"));
          const labels = [...root.querySelectorAll("label")].map((one) => one.textContent);
          document.querySelector("pre").textContent = JSON.stringify({ result, told, saved, pressed, labels });
        })();
    """
    found = result_of(page(tmp_path, model, then), tmp_path / "profile")
    codes = torch.tensor([packed["starts"][0], *[packed["starts"][1]] * 4])
    codes[2, 2] = 2.5
    expected = pixels_of(model, codes)[..., 0].reshape(5, -1)
    assert (
        abs(np.array(found["result"]) / 255 - expected).max() < 1.5 / 255
    )  # the canvas rounds to half a level
    assert abs(expected[2] - expected[1]).max() > 0.05
    assert found["told"] == "2.50" and found["pressed"] == ["false", "true"]
    assert found["saved"] == ["decoded.png", "data:image/png;base64,"]
    assert found["labels"] == ["posX &lt;&amp;&gt;", "Channel 0"] or found["labels"] == [
        "posX <&>",
        "Channel 0",
    ]


@needs_chromium
def test_the_page_of_a_phone_is_no_wider_than_it(tmp_path: Path) -> None:
    then = """
        document.querySelector("pre").textContent =
          JSON.stringify([document.documentElement.scrollWidth, innerWidth]);
    """
    wide, window = result_of(page(tmp_path, model_of("burgess"), then), tmp_path / "profile")
    assert wide <= window

"""Times the explorer of a report in Chromium: the decoding of a frame, and the frames while a slider moves.

    python -m benchmarks.explorer

The page is served from this machine, moves its own slider before each frame, and sends back its times. Before anything is
timed, the page decodes random codes, and nothing is reported if a pixel differs from torch's by more than 1/255.
Chromium draws 60 frames a second at most, so that 16.7 ms between two frames mean that none was left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader

from benchmarks import ROOT
from benchmarks.arguments import positive
from benchmarks.pages import markdown
from benchmarks.study import Run, Study, StudyError
from betavae_fast.bench.results import Provenance
from betavae_fast.data import load_dataset
from betavae_fast.evaluation.explorer import explorer
from betavae_fast.evaluation.summary import choose_images, summarise
from betavae_fast.nn import BetaVAE
from betavae_fast.training.trained_run import open_run

TOLERANCE = 1 / 255
CODES, FRAMES, WARM_UP = 200, 600, 60
_PATIENCE = 120  # seconds

# The page decodes ``codes``, then draws frames while the first slider goes to and fro, and sends everything back.
_SCRIPT = """
const packed = JSON.parse(document.getElementById("decoder").textContent);
const decode = makeDecoder(packed);
const images = CODES.map((code) => Array.from(decode(code)));
const slider = document.querySelector("[data-channel]");
const extent = Number(slider.max);
const between = [], decoding = [];
let last = null, frame = 0;
function step(now) {
  if (last !== null && frame > WARM_UP) between.push(now - last);
  last = now;
  slider.value = extent * Math.sin(frame / 20);
  slider.dispatchEvent(new Event("input"));
  const code = [...packed.starts[0]];
  code[slider.dataset.channel] = Number(slider.value);
  const start = performance.now();
  decode(code);
  if (frame > WARM_UP) decoding.push(performance.now() - start);
  frame += 1;
  if (between.length < FRAMES) requestAnimationFrame(step);
  else fetch("/", { method: "POST", body: JSON.stringify({ images, between, decoding }) });
}
requestAnimationFrame(step);
"""


@dataclass(frozen=True)
class ExplorerResults(Provenance):
    """Times are in milliseconds. Each frame decodes twice, because one of the two decodings is timed."""

    browser: str
    model: str
    bytes_of_page: int
    codes: int
    largest_difference: float  # of a pixel from torch's
    decoding: dict[str, float]  # median, 95th percentile and largest
    between_frames: dict[str, float]
    late_frames: float  # the share of frames that came more than half a frame late


def measure(run: Run) -> Iterator[ExplorerResults]:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise StudyError("Chromium is not installed")
    trained = open_run(run.args.run, "cpu")
    dataset = load_dataset(trained.config.data)
    packed = _packed(trained.model, dataset)
    codes = torch.randn(CODES, trained.model.latent_dim, generator=torch.Generator().manual_seed(0))
    page = _page(packed, codes, run.args.frames)
    found = _in_browser(browser, page)
    expected = trained.model.pixels(trained.model.decode(codes)).detach().permute(0, 2, 3, 1).flatten(1)
    difference = float(np.abs(np.array(found["images"]) - expected.numpy()).max())
    if not difference <= TOLERANCE:
        raise StudyError(f"a pixel differs from torch's by {difference:.1e}, more than {TOLERANCE:.1e}")
    version = subprocess.run(
        [browser, "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    yield ExplorerResults(
        **run.origin,
        browser=version,
        model=run.args.run.name,
        bytes_of_page=len(page),
        codes=CODES,
        largest_difference=difference,
        decoding=_statistics(found["decoding"]),
        between_frames=_statistics(found["between"]),
        late_frames=float(np.mean(np.array(found["between"]) > 25)),
    )


def _packed(model: BetaVAE, dataset: Any) -> dict[str, Any]:
    starts = dataset.gather(choose_images(len(dataset), 8))
    used = summarise(model, dataset).used
    packed = explorer(model, starts, used, {})
    if packed is None:
        raise StudyError("no page can decode this model, or no channel is in use")
    return packed


def _page(packed: dict[str, Any], codes: torch.Tensor, frames: int) -> bytes:
    templates = Environment(
        loader=PackageLoader("betavae_fast.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    inner = templates.get_template("explorer.html.jinja").render(
        explorer=packed, starts=["data:,"] * len(packed["starts"])
    )
    script = (
        _SCRIPT.replace("CODES", json.dumps(codes.tolist()))
        .replace("FRAMES", str(frames))
        .replace("WARM_UP", str(WARM_UP))
    )
    head = "<!doctype html><meta charset=utf-8><link rel=icon href='data:,'>"
    return f"{head}{inner}<script>{script}</script>".encode()


def _in_browser(browser: str, page: bytes) -> dict[str, Any]:
    """Show ``page`` in Chromium until it sends back its times.

    Raises: StudyError if nothing comes.
    """
    answers: Queue[bytes] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(page)

        def do_POST(self) -> None:
            answers.put(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server, tempfile.TemporaryDirectory() as profile:
        Thread(target=server.serve_forever, daemon=True).start()
        shown = subprocess.Popen(
            [
                browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
                "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
                "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            found: dict[str, Any] = json.loads(answers.get(timeout=_PATIENCE))
        except Empty:
            raise StudyError(f"the page sent nothing in {_PATIENCE} s") from None
        finally:
            shown.terminate()
            shown.wait()
            server.shutdown()
    return found


def _statistics(times: list[float]) -> dict[str, float]:
    """The median, the 95th percentile and the largest of times in milliseconds."""
    middle, high, largest = np.quantile(times, [0.5, 0.95, 1.0])
    return {"p50": round(float(middle), 3), "p95": round(float(high), 3), "max": round(float(largest), 3)}


def show(results: ExplorerResults) -> str:
    rows = [
        (name, *(f"{times[key]:.1f}" for key in ("p50", "p95", "max")))
        for name, times in (
            ("decoding a frame, ms", results.decoding),
            ("from frame to frame, ms", results.between_frames),
        )
    ]
    table = markdown(("", "median:", "95%:", "largest:"), rows)
    return (
        f"{table}\n\n{results.late_frames:.1%} of the frames were late. Pixels differ from torch's by "
        f"{results.largest_difference:.4f} at most; the page has {results.bytes_of_page / 1e6:.2f} MB."
    )


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="?", type=Path, default=ROOT / "examples" / "dsprites", help="default: examples/dsprites"
    )
    parser.add_argument("--frames", type=positive, default=FRAMES, help=f"default: {FRAMES}")


STUDY = Study(
    "benchmarks.explorer",
    __doc__,
    ExplorerResults,
    "explorer/MACHINE.json",
    measure,
    show,
    options,
    threads=False,
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())

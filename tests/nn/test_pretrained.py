"""A model in the form of the Hugging Face Hub: folders, damaged ones among them, and the calls of the Hub's API."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from betavae_fast.nn import BetaVAE, pretrained

FILES = {"README.md", "config.json", "model.safetensors"}


def bytes_of(count: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["burgess", "locatello", "mlp"])
def test_a_model_comes_back_bit_for_bit(architecture, dtype, tmp_path):
    torch.manual_seed(0)
    model = (
        BetaVAE((3, 8, 8), 3, architecture, likelihood="laplace", logvar_range=(-4.0, 2.0)).to(dtype).eval()
    )
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    found = BetaVAE.from_pretrained(str(tmp_path))
    assert found.arguments() == model.arguments() and found.latent.logvar_range == (-4.0, 2.0)
    assert not found.training and all(parameter.requires_grad for parameter in found.parameters())
    images = bytes_of(5, (3, 8, 8))
    with torch.no_grad():
        for ours, theirs in zip(found(images, seed=3), model(images, seed=3), strict=True):
            assert torch.equal(ours, theirs)


def test_loading_draws_no_numbers(tmp_path):
    BetaVAE((1, 8, 8), 3).save_pretrained(tmp_path)
    state = torch.get_rng_state()
    BetaVAE.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_card_that_is_there_stays(tmp_path):
    model = BetaVAE((1, 8, 8), 3)
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: betavae_fast\n") and "(B, 1, 8, 8)" in card
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    model.save_pretrained(tmp_path, card="β")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "β"


def edited(folder: Path, **entries: object) -> None:
    config = folder / "config.json"
    found = json.loads(config.read_text())
    config.write_text(json.dumps(found | {"model": found["model"] | entries}))


def with_weights(folder: Path, change: str) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    bias = tensors["encoder.moments.bias"]
    tensors |= {
        "other": {"other": bias.clone()},
        "wide": {"encoder.moments.bias": torch.zeros(8)},
        "whole": {name: tensor.to(torch.int32) for name, tensor in tensors.items()},
        "mixed": {"encoder.moments.bias": bias.double()},
    }[change]
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize(
    "damage, file, message",
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json", "No such file"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json", "not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json", "not the configuration of a"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json", "KeyError: 'model'"),
        (lambda folder: edited(folder, architecture="vgg"), "config.json", "got 'vgg'"),
        (lambda folder: edited(folder, colour="red"), "config.json", "colour"),
        (lambda folder: edited(folder, image_shape=8), "config.json", "not the configuration of a BetaVAE"),
        (lambda folder: edited(folder, latent_dim=0), "config.json", "latent_dim must be at least 1, got 0"),
        (lambda folder: edited(folder, latent_dim=4), "model.safetensors", "expected torch.float32 of shape (8"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors", "No such file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "model.safetensors", "not a safetensors"),
        (lambda folder: with_weights(folder, "other"), "model.safetensors", "has an unknown tensor 'other'"),
        (lambda folder: with_weights(folder, "wide"), "model.safetensors", "moments.bias is torch.float32 of shape (8,)"),
        (lambda folder: with_weights(folder, "whole"), "model.safetensors", "got torch.int32"),
        (lambda folder: with_weights(folder, "mixed"), "model.safetensors", "got torch.float32, torch.float64"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_one_line_that_names_the_file(damage, file, message, tmp_path):
    BetaVAE((1, 8, 8), 3).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        BetaVAE.from_pretrained(tmp_path)
    said = str(raised.value)
    assert str(tmp_path / file) in said and message in said and "\n" not in said


def test_a_folder_has_no_revisions_and_a_missing_one_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"revision names a version on the Hub, but .* is a folder; got 'v1'"
    ):
        BetaVAE.from_pretrained(tmp_path, revision="v1")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        BetaVAE.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "call, purpose",
    [
        (lambda: BetaVAE.from_pretrained("user/name"), "user/name is not a folder; to load it from the Hub"),
        (lambda: BetaVAE((1, 8, 8), 3).push_to_hub("user/name"), "to push user/name"),
    ],
)
def test_without_huggingface_hub_the_error_says_what_to_install(call, purpose, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda _: None)
    with pytest.raises(
        RuntimeError, match=f"{purpose}, huggingface_hub is needed, which is not installed: pip"
    ):
        call()


class Hub:
    """Records what is asked of the Hub's API, of which it has the calls that the library makes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, []

    def api(self, **options: object) -> Hub:
        self.calls.append(("HfApi", options))
        return self

    def create_repo(self, repo_id: str, **options: object) -> SimpleNamespace:
        self.calls.append(("create_repo", repo_id, options))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, repo_id: str, folder_path: str, **options: object) -> SimpleNamespace:
        model = BetaVAE.from_pretrained(folder_path)
        card = (Path(folder_path) / "README.md").read_text(encoding="utf-8")
        assert {path.name for path in Path(folder_path).iterdir()} == FILES
        self.calls.append(("upload_folder", repo_id, model.arguments(), card, options))
        return SimpleNamespace(commit_url="https://hub/commit")

    def snapshot_download(self, repo_id: str, **options: object) -> str:
        self.calls.append(("snapshot_download", repo_id, options))
        return str(self.folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path)
    library = SimpleNamespace(HfApi=hub.api, snapshot_download=hub.snapshot_download)
    monkeypatch.setattr(pretrained, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    return hub


def test_a_push_uploads_the_folder_of_the_model(hub):
    model = BetaVAE((1, 8, 8), 3)
    told = {"private": True, "commit_message": "First", "token": "secret"}
    assert model.push_to_hub("squares", card="My card", **told) == "https://hub/commit"
    (_, api), created, uploaded = hub.calls
    assert api["token"] == "secret"
    assert created == ("create_repo", "squares", {"private": True, "exist_ok": True})
    assert uploaded == (
        "upload_folder",
        "me/squares",
        model.arguments(),
        "My card",
        {"commit_message": "First"},
    )


def test_a_name_that_is_no_folder_is_downloaded(hub, tmp_path):
    model = BetaVAE((1, 8, 8), 3)
    model.save_pretrained(tmp_path)
    found = BetaVAE.from_pretrained("user/name", revision="v1")
    files = {"revision": "v1", "allow_patterns": ["config.json", "model.safetensors"]}
    assert hub.calls == [("snapshot_download", "user/name", files)]
    assert torch.equal(found.encoder.moments.bias, model.encoder.moments.bias)


def test_the_hub_has_the_calls_that_are_made():
    """The recorder above stands for the real API: its names and options are checked where it is installed."""
    import inspect

    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    for call, options in (
        (hub.HfApi, {"token", "library_name", "library_version"}),
        (hub.HfApi.create_repo, {"repo_id", "private", "exist_ok"}),
        (hub.HfApi.upload_folder, {"repo_id", "folder_path", "commit_message"}),
        (hub.snapshot_download, {"repo_id", "revision", "allow_patterns"}),
    ):
        assert options <= inspect.signature(call).parameters.keys()

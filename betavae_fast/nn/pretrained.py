"""Reads and writes a model as a folder in the form of the Hugging Face Hub.

config.json         the arguments of BetaVAE, under "model", and the version of the library
model.safetensors   the model's state dict
README.md           the model card
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor

from betavae_fast import __version__
from betavae_fast.files import atomic_writer, read_json, write_json

if TYPE_CHECKING:
    from betavae_fast.nn.vae import BetaVAE

_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"


def save(model: BetaVAE, folder: str | os.PathLike[str], card: str | None) -> None:
    """Write ``model`` into ``folder``, as :meth:`BetaVAE.save_pretrained` does."""
    path = Path(folder)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic_writer(path / _WEIGHTS) as file:
        file.write(safetensors.torch.save(weights))
    write_json(path / _CONFIG, {"betavae_fast_version": __version__, "model": model.arguments()})
    if card is not None or not (path / _CARD).exists():
        with atomic_writer(path / _CARD) as file:
            file.write((plain_card(model) if card is None else card).encode())


def load(kind: type[BetaVAE], source: str | os.PathLike[str], revision: str | None) -> BetaVAE:
    """Build the model of a folder or of a repository of the Hub, as :meth:`BetaVAE.from_pretrained` does."""
    folder = _local(source, revision)
    config, weights = folder / _CONFIG, folder / _WEIGHTS
    described = read_json(config)
    try:
        model = build_empty(kind, described["model"])
    except Exception as error:
        # Anyone may have written the file: any entry may be missing or malformed.
        raise ValueError(
            f"{config}: not the configuration of a BetaVAE ({type(error).__name__}: {error})"
        ) from error
    content = weights.read_bytes()
    try:
        tensors = safetensors.torch.load(content)
    except Exception as error:
        # safetensors raises its own error for a broken header, torch several for impossible entries in a valid one.
        raise ValueError(f"{weights}: not a safetensors file ({error})") from error
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not all(dtype.is_floating_point for dtype in dtypes):
        found = ", ".join(sorted(map(str, dtypes))) or "no tensors"
        raise ValueError(f"{weights}: weights must have one floating-point dtype, got {found}")
    (dtype,) = dtypes
    if difference := mismatch(tensors, model.to(dtype).state_dict()):
        raise ValueError(f"{weights}: {difference}")
    # The tensors that safetensors makes share the memory of ``content``.
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return model.eval()


def push(
    model: BetaVAE,
    repo_id: str,
    card: str | None,
    private: bool | None,
    commit_message: str | None,
    token: str | None,
) -> str:
    """Upload ``model`` to the Hub, as :meth:`BetaVAE.push_to_hub` does."""
    _check_hub(f"to push {repo_id}")
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="betavae_fast", library_version=__version__)
    with TemporaryDirectory() as folder:
        save(model, folder, card)
        # The Hub puts the user's name before a repo_id without one.
        named = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(repo_id=named, folder_path=folder, commit_message=commit_message)
    return str(commit.commit_url)


def build_empty(kind: type[BetaVAE], arguments: dict[str, Any]) -> BetaVAE:
    """The model on the meta device, which takes no memory and leaves the caller's random generator alone.

    Args:
        arguments: as :meth:`BetaVAE.arguments` gives them; tuples may have become lists.
    """
    tuples: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()
    }
    with torch.device("meta"):
        return kind(**tuples)


def mismatch(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Tell the first difference of ``found`` to the names, shapes and dtypes of ``expected``; None if there is none.

    >>> mismatch({"bias": torch.zeros(3)}, {"bias": torch.zeros(2)})
    'bias is torch.float32 of shape (3,), expected torch.float32 of shape (2,)'
    """
    for name in sorted(found.keys() ^ expected.keys()):
        return f"{'has no' if name in expected else 'has an unknown'} tensor {name!r}"
    for name, like in expected.items():
        if (found[name].shape, found[name].dtype) != (like.shape, like.dtype):
            return (
                f"{name} is {found[name].dtype} of shape {tuple(found[name].shape)}, "
                f"expected {like.dtype} of shape {tuple(like.shape)}"
            )
    return None


def plain_card(model: BetaVAE, license: str | None = None) -> str:
    """The card of a model of which nothing else is known: what it is, and how to load it."""
    title = f"# β-VAE: {model.architecture}, {model.latent_dim} latent channels"
    return "\n".join([*header(license), title, "", *how_to_load(model)])


def header(license: str | None) -> list[str]:
    """The lines of YAML that a card begins with, from which the Hub takes its filters.

    Args:
        license: one of the Hub's names of licences, such as "apache-2.0", "cc-by-4.0" or "other"; None for none.
    Raises: ValueError for other characters than those of such a name.
    """
    if license is not None and (not license or set(license) - set("abcdefghijklmnopqrstuvwxyz0123456789.+-")):
        raise ValueError(f"license must be a name such as apache-2.0 or cc-by-4.0, got {license!r}")
    return [
        "---",
        *([] if license is None else [f"license: {license}"]),
        "library_name: betavae_fast",
        "pipeline_tag: image-feature-extraction",
        "tags:",
        "- beta-vae",
        "- variational-autoencoder",
        "- disentanglement",
        "- representation-learning",
        "---",
        "",
    ]


def how_to_load(model: BetaVAE) -> list[str]:
    """The lines of a card that load the model and use it."""
    return [
        "To use it:",
        "",
        "```python",
        "from betavae_fast import BetaVAE",
        "",
        'model = BetaVAE.from_pretrained("USER/NAME")  # or the path of this folder',
        "# uint8 from 0 to 255, or floating point from 0 to 1: "
        f"(B, {', '.join(map(str, model.image_shape))})",
        "mu, logvar = model.encode(images)",
        "reconstructed = model.pixels(model.decode(mu))",
        "```",
        "",
    ]


def _local(source: str | os.PathLike[str], revision: str | None) -> Path:
    """The folder ``source``, or the one into which the Hub's repository of that name was downloaded."""
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"revision names a version on the Hub, but {folder} is a folder; got {revision!r}"
            )
        return folder
    if not isinstance(source, str):
        raise FileNotFoundError(f"{folder}: no such folder")
    _check_hub(f"{source} is not a folder; to load it from the Hub")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, revision=revision, allow_patterns=[_CONFIG, _WEIGHTS]))


def _check_hub(purpose: str) -> None:
    if find_spec("huggingface_hub") is None:
        raise RuntimeError(
            f"{purpose}, huggingface_hub is needed, which is not installed: pip install huggingface_hub"
        )

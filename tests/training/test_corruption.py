"""Whatever happens to the files of a checkpoint, reading them ends in a RunFileError that names the file."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from betavae_fast.nn import BetaVAE
from betavae_fast.objectives import Beta
from betavae_fast.training.checked_json import RunFileError, read_checked, with_checksum, write_checked
from betavae_fast.training.checkpoint import load_checkpoint, save_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.run_folder import create_run_folder, read_config

CONFIG = TrainConfig(data="tiny", latent_dim=2)
KINDS = ("model", "optimizer")


def trained(architecture: str = "burgess") -> tuple[BetaVAE, torch.optim.Adam]:
    torch.manual_seed(0)
    model = BetaVAE((1, 8, 8), latent_dim=2, architecture=architecture)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(4, 1, 8, 8)).decoded.square().mean().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a checkpoint."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "checkpoint", 3, CONFIG, *trained(), Beta())
    return tmp_path / "checkpoint"


def tensor_file(folder: Path, kind: str) -> Path:
    (path,) = folder.glob(f"{kind}-*.safetensors")
    return path


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def refusal(folder: Path, path: Path) -> str:
    """The error message of loading, which must name the file."""
    with pytest.raises(RunFileError) as error:
        load_checkpoint(folder)
    assert str(path) in str(error.value)
    return str(error.value)


def forge_tensors(folder: Path, kind: str, content: bytes) -> Path:
    """Replace a file of tensors by ``content``, with a correct checksum."""
    path = tensor_file(folder, kind)
    path.write_bytes(content)
    described = read_checked(folder / "latest.json")
    described["files"][kind]["sha256"] = hashlib.sha256(content).hexdigest()
    write_checked(folder / "latest.json", described)
    return path


class Bomb:
    """An object that does harm when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


def zip_of_a_pickle() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))  # the layout of torch.save
    return buffer.getvalue()


def header(described: Any, tensors: bytes = b"") -> bytes:
    """Make a safetensors file with this header."""
    text = described if isinstance(described, bytes) else json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def index_text(**changes: Any) -> bytes:
    """Make an index with a wrong "step" and the other wrong entries given."""
    return json.dumps({"format": 1, "step": 3, **changes}, indent=2).encode()


FOREIGN = [b"", b"\0", b"{}", b"text\n", zip_of_a_pickle(), pickle.dumps(Bomb()), b"\xff\xfe\0\0"]
HEADERS = [
    struct.pack("<Q", 2**50) + b"{}",
    struct.pack("<Q", 2**64 - 1),
    header({"x": {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 2**52]}}),
    header({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)),
    header({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
    header({"x": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    header({"x": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
    header({"x": {"dtype": "F32", "shape": [float("nan")], "data_offsets": [0, 4]}}, bytes(4)),
    header(b'{"x":' + b"[" * 10_000),
    header(b'{"x":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,4]}}', bytes(4)),
]
INDICES = [
    b"",
    b"{\n}",
    b"[]",
    b"[\n}",
    b"\xff\xfe\n}",
    b'{\n  "step": ' + b"9" * 10_000 + b"\n}",
    b'{\n  "step": ' + b"[" * 100_000 + b"\n}",
    index_text(),
    index_text(format=99),
    index_text(format=None),
]


@pytest.mark.parametrize("number, flips", [(0, 700), (1, 200), (2, 100)])  # large files take longer to read
def test_a_flipped_bit_is_named_with_both_checksums(folder, number, flips):
    path = files(folder)[number]
    whole, generator = path.read_bytes(), random.Random(number)
    with path.open("r+b", buffering=0) as file:
        for _ in range(flips):
            position = generator.choice((generator.randrange(len(whole)), generator.randrange(400)))
            file.seek(position)
            file.write(bytes([whole[position] ^ 1 << generator.randrange(8)]))
            assert "SHA-256" in refusal(folder, path)
            file.seek(position)
            file.write(whole[position : position + 1])
    assert load_checkpoint(folder).step == 3


def test_every_byte_of_the_index_counts(folder):
    path = folder / "latest.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        refusal(folder, path)


def test_every_byte_of_the_configuration_counts(tmp_path):
    run = create_run_folder(CONFIG, tmp_path / "run")
    whole = run.config.read_bytes()
    for position in range(len(whole)):
        run.config.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(RunFileError, match=r"config\.json: damaged"):
            read_config(run)


@pytest.mark.parametrize("number", range(3))
def test_a_file_of_another_length_is_named(folder, number):
    path = files(folder)[number]
    whole, generator = path.read_bytes(), random.Random(number)
    for length in (0, 1, 8, 100, len(whole) - 1, *(generator.randrange(len(whole)) for _ in range(30))):
        path.write_bytes(whole[:length])
        refusal(folder, path)
    path.write_bytes(whole + b"\0")
    refusal(folder, path)


@pytest.mark.parametrize("number", range(3))
def test_another_file_in_its_place_is_named(folder, number):
    path = files(folder)[number]
    for content in FOREIGN + HEADERS + INDICES:
        path.write_bytes(content)
        refusal(folder, path)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_checksums_that_are_right_do_not_make_it_tensors(folder, kind):
    for content in FOREIGN + HEADERS:
        refusal(folder, forge_tensors(folder, kind, content))
    assert not Path("unpickled").exists()


def test_a_checksum_that_is_right_does_not_make_it_an_index(folder):
    for text in INDICES:
        (folder / "latest.json").write_bytes(with_checksum(text))
        refusal(folder, folder / "latest.json")


@pytest.mark.parametrize(
    "entry, value",
    [
        ("step", -1),
        ("step", 1.5),
        ("step", True),
        ("step", "3"),
        ("step", float("nan")),
        ("config", None),
        ("config.nosuch", 1),
        ("config.steps", 0),
        ("config.steps", "many"),
        ("config.beta", float("inf")),
        ("config.beta", 10**400),
        ("config.lr", float("nan")),
        ("model", []),
        ("model.nosuch", 1),
        ("model.architecture", "vgg"),
        ("model.architecture", {}),
        ("model.likelihood", "poisson"),
        ("model.image_shape", 8),
        ("model.image_shape", [1, 8]),
        ("model.image_shape", [1, 8, float("inf")]),
        ("model.latent_dim", 0),
        ("model.latent_dim", 2.5),
        ("model.latent_dim", 10**30),
        ("files", []),
        ("files.model", 3),
        ("files.model.name", 3),
        ("files.model.name", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_index_that_says_nonsense_is_named(folder, entry, value):
    described = place = read_checked(folder / "latest.json")
    *keys, last = entry.split(".")
    for key in keys:
        place = place[key]
    place[last] = value
    write_checked(folder / "latest.json", described)
    refusal(folder, folder / "latest.json")


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "..", "", ".", "a\0b", "a" * 5000])
def test_an_index_cannot_point_outside_its_folder(folder, name):
    (folder.parent / "elsewhere").write_bytes(tensor_file(folder, "model").read_bytes())
    described = read_checked(folder / "latest.json")
    described["files"]["model"]["name"] = name
    write_checked(folder / "latest.json", described)
    refusal(folder, folder)


@pytest.mark.parametrize("number", range(3))
def test_what_is_no_regular_file_is_named(folder, number):
    path = files(folder)[number]
    whole = path.read_bytes()
    for target in ("/dev/zero", path.name, "nowhere", str(folder)):
        path.unlink()
        path.symlink_to(target)
        refusal(folder, path)
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refusal(folder, path)
    path.unlink()
    path.mkdir()
    refusal(folder, path)
    path.rmdir()
    (folder.parent / "stored").write_bytes(whole)
    path.symlink_to(folder.parent / "stored")  # like tools that store large files elsewhere
    assert load_checkpoint(folder).step == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change, told",
    [
        (lambda tensors, name: tensors.pop(name), "has no tensor"),
        (lambda tensors, name: tensors.update(nosuch=torch.zeros(1)), "unknown tensor 'nosuch'"),
        (
            lambda tensors, name: tensors.update({"encoder.conv1.bias.nosuch": torch.zeros(1)}),
            r"unknown tensor 'encoder\.conv1\.bias\.nosuch'",
        ),
        (lambda tensors, name: tensors.update({name: torch.zeros(1, 2, 3)}), r"shape \(1, 2, 3\), expected"),
        (lambda tensors, name: tensors.update({name: tensors[name].double()}), "float64.*expected.*float32"),
    ],
    ids=["missing", "unknown", "unknown quantity", "shape", "dtype"],
)
def test_tensors_of_another_model_are_named(folder, kind, change, told):
    tensors = safetensors.torch.load_file(tensor_file(folder, kind))
    change(tensors, sorted(tensors)[0])
    path = forge_tensors(folder, kind, safetensors.torch.save(tensors))
    with pytest.raises(RunFileError, match=rf"{path.name}: .*{told}"):
        load_checkpoint(folder)


def test_a_checkpoint_of_another_architecture_is_refused_and_changes_nothing(folder):
    model, optimizer = trained("locatello")
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(RunFileError, match=r"latest\.json: has .* tensor"):
        load_checkpoint(folder).restore(model, optimizer, Beta())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    described = read_checked(folder / "latest.json")
    described["model"]["architecture"] = "mlp"
    write_checked(folder / "latest.json", described)
    refusal(folder, tensor_file(folder, "model"))

"""3D Shapes, MPI3D, smallNORB, Cars3D and CelebA, read from small files in their published forms."""

from __future__ import annotations

import io
import os
import sys
import tracemalloc
import warnings
import zipfile
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from betavae_fast.data import (
    DatasetError,
    FolderImages,
    GridImages,
    ImageDataset,
    KnownFactors,
    TableImages,
    cars3d,
    load_dataset,
    mpi3d,
    open_dataset,
    shapes3d,
    small_norb,
    unpacked,
)
from tests.data import published

TRAINING, TESTING = published.NORB.parts
PUBLISHED = shapes3d.SHAPES3D, mpi3d.FORMS, small_norb.SMALL_NORB, cars3d.CARS3D


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_forms: None) -> Path:
    monkeypatch.setenv("BETAVAE_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def everything(dataset: ImageDataset) -> np.ndarray:
    return dataset.gather(torch.arange(len(dataset))).numpy()


def classes(dataset: ImageDataset) -> np.ndarray:
    assert isinstance(dataset, KnownFactors)
    return dataset.factors(torch.arange(len(dataset))).numpy()


def values(dataset: ImageDataset) -> np.ndarray:
    """The value of each factor of each image."""
    assert isinstance(dataset, KnownFactors)
    return np.stack(
        [v.numpy()[c] for v, c in zip(dataset.factor_values, classes(dataset).T, strict=True)], axis=1
    )


def load(path: Path, **options: int) -> ImageDataset:
    return load_dataset(path, progress=False, **options)  # type: ignore[arg-type]


def as_files(images: np.ndarray, folder: Path) -> np.ndarray:
    """The same images as a folder of PNG files is read."""
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:05d}.png")
    return everything(load(folder))


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_the_published_forms_have_the_published_sizes() -> None:
    """The sizes that the other tests make smaller, as the publishers and disentanglement_lib state them."""
    shapes, forms, norb, cars = PUBLISHED
    assert shapes.shape == (480_000, 64, 64, 3)
    assert [len(values) for values in shapes.factors.values()] == [10, 10, 10, 8, 4, 15]
    for name in ("mpi3d_toy.npz", "mpi3d_realistic.npz", "mpi3d_real.npz"):
        assert forms[name].shape == (1_036_800, 64, 64, 3)
    assert forms["real3d_complicated_shapes_ordered.npz"].shape == (460_800, 64, 64, 3)
    assert [prod(map(len, norb.factors(part).values())) for part in norb.parts] == [24_300, 24_300]
    assert cars.objects * prod(cars.shape[3:]) == 17_568


def test_shapes_are_unpacked_once_in_their_order(tmp_path: Path, cache: Path) -> None:
    images = published.write_shapes(tmp_path / "3dshapes.h5")
    dataset = load(tmp_path / "3dshapes.h5")
    assert isinstance(dataset, GridImages) and dataset.name == "3dshapes"
    assert dataset.factor_names == ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
    assert np.array_equal(everything(dataset), images.transpose(0, 3, 1, 2))
    assert np.array_equal(values(dataset), published.labels(published.SHAPES))
    assert torch.equal(dataset.index(torch.from_numpy(classes(dataset))), torch.arange(len(images)))
    (array,) = cache.glob("*.npy")
    assert np.array_equal(np.load(array), images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes3d, "_blocks", None)
        again = load(tmp_path / "3dshapes.h5")
    assert again.identity == dataset.identity


def test_another_h5_is_refused(tmp_path: Path) -> None:
    path, form = tmp_path / "3dshapes.h5", published.SHAPES
    pixels, labels = published.pixels(form), published.labels(form)
    for changes, told in (
        (
            {"images": pixels[..., :32, :]},
            r"images must be uint8 of shape \(144, 64, 64, 3\), got uint8 of \(144, 64, 32",
        ),
        ({"images": pixels.astype(np.int16)}, "got int16"),
        (
            {"labels": labels[:-1]},
            r"labels must be floating point of shape \(144, 6\), got float64 of \(143, 6\)",
        ),
        ({"labels": labels[::-1]}, "published order: row 0 has floor_hue 0.1, expected 0"),
        ({"labels": np.where(labels == 0.2, 0.1, labels)}, "3 values of object_hue, got 2"),
    ):
        published.write_shapes(path, **changes)
        with pytest.raises(DatasetError, match=rf"3dshapes\.h5: .*{told}"):
            load(path)
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["pictures"] = pixels
    with pytest.raises(DatasetError, match=r"3dshapes\.h5: .* has no array labels, but pictures"):
        load(path)


def test_a_damaged_h5_is_refused_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "3dshapes.h5"
    published.write_shapes(path)
    whole = path.read_bytes()
    for content in (b"", whole[:1000], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"3dshapes\.h5: not a readable HDF5 file: .+"):
            load(path)
    path.write_bytes(whole)
    flipped(path, 2 * len(whole) // 3)  # within the pixels
    with pytest.raises(DatasetError, match=r"3dshapes\.h5: not a readable HDF5 file"):
        load(path)
    assert not list(cache.glob("*"))


def test_without_h5py_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "3dshapes.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DatasetError, match=r"3dshapes\.h5: needs h5py, .*pip install h5py") as told:
        load(tmp_path / "3dshapes.h5")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("name", ["mpi3d_toy.npz", "renamed.npz"])
def test_mpi_is_read_in_place_or_unpacked(tmp_path: Path, cache: Path, name: str, deflated: bool) -> None:
    images = published.write_mpi(tmp_path / name, deflated=deflated)
    dataset = load(tmp_path / name)
    assert isinstance(dataset, GridImages)
    assert dataset.name == ("mpi3d_toy" if name == "mpi3d_toy.npz" else str(tmp_path / name))
    assert dataset.factor_names == tuple(published.MPI.factors)
    assert np.array_equal(everything(dataset), images.transpose(0, 3, 1, 2))
    assert np.array_equal(values(dataset), published.labels(published.MPI))
    assert len(list(cache.glob("*.npy"))) == deflated


def test_another_archive_is_refused_by_a_published_name_only(tmp_path: Path) -> None:
    images = published.pixels(published.MPI)
    np.savez(tmp_path / "mpi3d_real.npz", images=images[:-1])
    with pytest.raises(
        DatasetError, match=r"mpi3d_real\.npz: not the published file: images must be .*got uint8 of \(95,"
    ):
        load(tmp_path / "mpi3d_real.npz")
    np.savez(tmp_path / "mpi3d_real.npz", pictures=images)
    with pytest.raises(DatasetError, match=r"mpi3d_real\.npz: .* has no array images, but pictures\.npy"):
        load(tmp_path / "mpi3d_real.npz")
    (tmp_path / "mpi3d_real.npz").write_bytes(b"PK half a file")
    with pytest.raises(DatasetError, match=r"mpi3d_real\.npz: not a readable archive: .+"):
        load(tmp_path / "mpi3d_real.npz")
    np.savez(tmp_path / "mine.npz", images=images[:-1])
    assert not isinstance(load(tmp_path / "mine.npz"), KnownFactors)


def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "mpi3d_toy.npz"
    published.write_mpi(path, deflated=True)
    flipped(path, path.stat().st_size // 2)
    with pytest.raises(DatasetError, match=r"mpi3d_toy\.npz: not a readable archive: .+"):
        load(path)
    assert not list(cache.glob("*"))


def test_an_interrupted_unpacking_is_never_taken_for_whole(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mpi3d_toy.npz"
    images = published.write_mpi(path, deflated=True)
    monkeypatch.setattr(mpi3d, "BLOCK_BYTES", 10 * prod(published.MPI.image_shape))
    blocks = mpi3d._blocks

    def interrupted(*arguments: object) -> unpacked.Blocks:
        yield next(blocks(*arguments))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mpi3d, "_blocks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(path)
    assert not list(cache.glob("*"))
    with monkeypatch.context() as patch:  # between the array and its checksum
        patch.setattr(unpacked, "write_json", interrupted)
        patch.setattr(unpacked, "_checksum", lambda rows: next(interrupted(path, published.MPI)) and None)
        with pytest.raises(ValueError):
            load(path)
    assert np.array_equal(everything(load(path)), images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("damage", ["pixel", "cut", "header", "checksum", "no array"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, cache: Path, damage: str) -> None:
    path = tmp_path / "mpi3d_toy.npz"
    images = published.write_mpi(path, deflated=True)
    load(path)
    (array,), (record,) = cache.glob("*.npy"), cache.glob("*.json")
    if damage == "no array":
        array.unlink()
    elif damage == "cut":
        array.write_bytes(array.read_bytes()[:-1])
    elif damage == "checksum":
        record.write_bytes(b"{")
    else:
        flipped(array, -1 if damage == "pixel" else 2)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        again = load(path)
    named = [str(warning.message) for warning in told if warning.category is UserWarning]
    assert named == [] if damage == "no array" else ("making it again" in named[0] and str(cache) in named[0])
    assert np.array_equal(everything(again), images.transpose(0, 3, 1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load(path)


def test_a_cache_that_cannot_be_written_is_one_line_with_a_remedy(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.write_mpi(tmp_path / "mpi3d_toy.npz", deflated=True)
    cache.write_bytes(b"")  # a file where the folder should be
    with (
        pytest.warns(UserWarning, match="making it again"),
        pytest.raises(DatasetError, match=r"mpi3d_toy\.npz: cannot be unpacked .*BETAVAE_FAST_CACHE"),
    ):
        load(tmp_path / "mpi3d_toy.npz")
    cache.unlink()
    monkeypatch.setattr(unpacked.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(
        DatasetError, match=r"mpi3d_toy\.npz: .* has 1\.0 kB free; .*1\.2 MB.* BETAVAE_FAST_CACHE"
    ):
        load(tmp_path / "mpi3d_toy.npz")
    assert not cache.exists()


def test_what_a_killed_unpacking_left_does_not_take_the_room_of_the_next(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.write_mpi(tmp_path / "mpi3d_toy.npz", deflated=True)
    load(tmp_path / "mpi3d_toy.npz")
    (array,) = cache.glob("*.npy")
    left = array.rename(cache / f".{array.name}.0123.tmp")
    os.utime(left, (0, 0))
    monkeypatch.setattr(
        unpacked.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 if left.exists() else 1 << 30)
    )
    assert len(load(tmp_path / "mpi3d_toy.npz")) == 96 and not left.exists()


def test_unpacking_holds_a_block_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = published.GridForm(published.numbered(one=40, two=100))
    monkeypatch.setattr(mpi3d, "FORMS", {"mpi3d_toy.npz": big})
    monkeypatch.setattr(mpi3d, "BLOCK_BYTES", 1 << 20)
    with (
        zipfile.ZipFile(tmp_path / "mpi3d_toy.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w") as file,
    ):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": big.shape}
        )
        file.write(header.getvalue())
        for _ in range(40):
            file.write(bytes(prod(big.shape) // 40))
    tracemalloc.start()
    dataset = load(tmp_path / "mpi3d_toy.npz")
    dataset.gather(torch.tensor([0, 3999]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(dataset) == 4000 and peak < 20e6 < prod(big.shape) == 49_152_000


def test_two_processes_may_unpack_at_once(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "mpi3d_toy.npz"
    images = published.write_mpi(path, deflated=True)
    inner: list[ImageDataset] = []
    blocks = mpi3d._blocks

    def meanwhile(*arguments: object) -> unpacked.Blocks:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mpi3d, "_blocks", blocks)
            inner.append(load(path))  # the other process begins later and ends earlier
        yield from blocks(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mpi3d, "_blocks", meanwhile)
        outer = load(path)
    for dataset in (*inner, outer, load(path)):
        assert np.array_equal(everything(dataset), images.transpose(0, 3, 1, 2))
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_norb_has_both_parts_training_first(tmp_path: Path, packed: bool) -> None:
    (tmp_path / "norb").mkdir()
    first, of_first = published.write_norb(tmp_path / "norb", TRAINING, packed=packed)
    second, of_second = published.write_norb(tmp_path / "norb", TESTING, packed=packed, seed=1)
    dataset = load(tmp_path / "norb")
    assert isinstance(dataset, TableImages) and dataset.image_shape == (1, 64, 64)
    assert dataset.factor_names == ("category", "instance", "elevation", "azimuth", "lighting")
    assert dataset.factor_sizes == (3, 5, 2, 3, 2)
    assert np.array_equal(values(dataset), np.concatenate([of_first, of_second]))
    expected = as_files(np.concatenate([first, second]), tmp_path / "files")
    assert np.array_equal(everything(dataset), expected)


def test_norb_of_one_part_has_the_instances_present(tmp_path: Path) -> None:
    _, of_testing = published.write_norb(tmp_path, TESTING)
    dataset = load(tmp_path, image_size=32)
    assert isinstance(dataset, TableImages) and dataset.image_shape == (1, 32, 32)
    assert dataset.factor_values[1].tolist() == [0, 1, 2]
    assert np.array_equal(values(dataset), of_testing)


@pytest.mark.parametrize("kind", ["dat", "cat", "info"])
def test_damaged_norb_is_refused_by_its_file(tmp_path: Path, kind: str) -> None:
    published.write_norb(tmp_path, TRAINING)
    path = tmp_path / f"{TRAINING}-{kind}.mat"
    whole = path.read_bytes()
    start = 24 if kind == "dat" else 20
    wrong = np.frombuffer(whole, "<i4", 5 if kind != "dat" else 6).copy()
    wrong[2] += 1
    for content, told in (
        (b"", "ends in its header"),
        (whole[:12], "ends in its header"),
        (b"MATLAB 5" + whole, "not a matrix"),
        (wrong.tobytes() + whole[start:], "not the published file"),
        (whole[:-1], "less data"),
        (whole + b"?", "more data"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=rf"{TRAINING}-{kind}\.mat: .*{told}"):
            load(tmp_path)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{TRAINING}-{kind}\.mat: is missing"):
        load(tmp_path)


def test_norb_with_other_labels_is_refused(tmp_path: Path) -> None:
    _, found = published.write_norb(tmp_path, TRAINING)
    info = tmp_path / f"{TRAINING}-info.mat"
    for column, value, told in (
        (1, 9, "elevation must be one of 0, 1, got 9 for image 7"),
        (3, 1 - found[7, 4], "once"),
    ):
        changed = found[:, 1:].copy()
        changed[7, column] = value
        info.write_bytes(published.matrix(changed))
        with pytest.raises(DatasetError, match=rf"-info\.mat: .*{told}"):
            load(tmp_path)
    info.unlink()
    (tmp_path / f"{info.name}.gz").write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(DatasetError, match=r"-info\.mat\.gz: not a readable matrix: .+"):
        load(tmp_path)


def test_cars_are_in_natural_order_with_elevation_fastest(tmp_path: Path) -> None:
    (tmp_path / "cars").mkdir()
    cars = published.write_cars(tmp_path / "cars", (1, 2, 1000))
    (tmp_path / "cars" / "list.txt").write_text("car_001.mesh\ncar_002.mesh\ncar_1000.mesh\n")
    dataset = load(tmp_path / "cars")
    assert isinstance(dataset, GridImages) and dataset.image_shape == (3, 64, 64)
    assert dict(zip(dataset.factor_names, dataset.factor_sizes, strict=True)) == {
        "object": 3,
        "azimuth": 4,
        "elevation": 2,
    }
    ordered = np.stack([cars[c][..., azimuth, elevation] for c, azimuth, elevation in classes(dataset)])
    assert np.array_equal(ordered[5], cars[0][:, :, :, 2, 1])
    assert np.array_equal(everything(dataset), as_files(ordered, tmp_path / "files"))


def test_a_mat_file_beside_images_makes_no_cars(tmp_path: Path) -> None:
    savemat(tmp_path / "annotations.mat", {"boxes": np.zeros(3)})
    Image.new("L", (4, 4)).save(tmp_path / "car.png")
    with pytest.warns(UserWarning, match=r"left out 1 file in unsupported formats \(\.mat 1\)"):
        assert len(load(tmp_path)) == 1


def test_other_cars_are_refused_by_their_file(tmp_path: Path) -> None:
    published.write_cars(tmp_path)
    second = tmp_path / "car_002.mesh.mat"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"car_002\.mesh\.mat: not a readable MATLAB file: .+"):
        load(tmp_path)
    for content, told in (
        ({"image": np.zeros(3)}, "no variable im"),
        ({"im": np.zeros(published.CARS.shape)}, "got float64"),
        ({"im": np.zeros((8, 8, 3, 4, 2), np.uint8)}, r"got uint8 of \(8, 8"),
    ):
        savemat(second, content)
        with pytest.raises(DatasetError, match=rf"car_002\.mesh\.mat: not a file of Cars3D: .*{told}"):
            load(tmp_path)
    second.unlink()
    with pytest.raises(
        DatasetError, match=r"has 3 \.mat files, found 2, from car_001\.mesh\.mat to car_010\.mesh\.mat"
    ):
        load(tmp_path)


@pytest.mark.parametrize("within", ["img_align_celeba", "img_align_celeba/img_align_celeba", "."])
@pytest.mark.parametrize("table", [False, True], ids=["txt", "csv"])
@pytest.mark.filterwarnings("ignore:.*left out 1 file")
def test_celeba_has_its_attributes(tmp_path: Path, within: str, table: bool) -> None:
    expected = published.write_celeba(tmp_path, within, table=table)
    opened, held = open_dataset(tmp_path, image_size=8, progress=False), load(tmp_path, image_size=8)
    for dataset in (opened, held):
        assert isinstance(dataset, TableImages) and dataset.factor_names == published.ATTRIBUTES
        assert np.array_equal(values(dataset), 2 * expected - 1)
        assert np.array_equal(everything(dataset), everything(opened))
    assert isinstance(opened.images, FolderImages) and opened.images.files[0] == "000001.jpg"  # type: ignore[attr-defined]


@pytest.mark.parametrize("table", [False, True], ids=["txt", "csv"])
def test_celeba_with_other_files_or_a_damaged_list_is_refused(tmp_path: Path, table: bool) -> None:
    published.write_celeba(tmp_path, table=table)
    (path,) = tmp_path.glob("list_attr_celeba.*")
    text = path.read_text()
    third = tmp_path / "img_align_celeba" / "000003.jpg"
    third.rename(third.with_name("extra.jpg"))
    with pytest.raises(DatasetError, match=r"no row for 1 of 12 images in .*: extra\.jpg"):
        load(tmp_path)
    third.with_name("extra.jpg").unlink()
    with pytest.raises(DatasetError, match=r"names 1 files that are no images in .*: 000003\.jpg"):
        load(tmp_path)
    mark = "," if table else " "
    row = 3 if table else 4
    for damaged, told in (
        (text.replace("000002.jpg", "000001.jpg"), "000001.jpg twice, in its rows 1 and 2"),
        (
            text.replace("\n000002.jpg", f"\n000002.jpg{mark}1"),
            f"line {row} .000002.jpg. must have -1 or 1 for each of 3",
        ),
        (text.replace("\n000002.jpg", f"\n000002.jpg{mark}0"), f"line {row} .000002.jpg."),
        ("", "list_attr_celeba"),
    ):
        path.write_text(damaged)
        with pytest.raises(DatasetError, match=rf"{path.name}: .*{told}" if damaged else told):
            load(tmp_path)
    if not table:
        path.write_text(text.replace("12\n", "13\n", 1))
        with pytest.raises(DatasetError, match="first line says 13 images, but it has 12"):
            load(tmp_path)

"""Factors of one's own images, from CSV, .npy and .npz files beside an array or a folder."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from betavae_fast.data import (
    DatasetError,
    FolderImages,
    TableImages,
    load_dataset,
    open_dataset,
    with_factors,
)
from betavae_fast.evaluation.code_file import write_npz

COUNT = 60
SHAPES = ["square", "ellipse", "heart"]


@pytest.fixture
def array(tmp_path: Path) -> Path:
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), dtype=np.uint8))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    for name in ("a/1.png", "a/2.png", "übung.png", "z, last.png"):
        Image.new("L", (8, 8), len(name)).save(folder / name)
    return folder


def labelled(data: Path, factors: Path) -> TableImages:
    dataset = load_dataset(data, factors=factors, progress=False)
    assert isinstance(dataset, TableImages)
    return dataset


def classes(dataset: TableImages) -> np.ndarray:
    return dataset.factors(torch.arange(len(dataset))).numpy()


def text_of(columns: dict[str, list[object]], mark: str = ",", end: str = "\n") -> str:
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return end.join(mark.join(map(str, row)) for row in rows) + end


def refused(data: Path, factors: Path, told: str) -> None:
    with pytest.raises(DatasetError, match=told) as error:
        load_dataset(data, factors=factors, progress=False)
    assert str(error.value).startswith(f"{factors}: ") and "\n" not in str(error.value)


def test_columns_become_classes_by_their_kind(array: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    number, words = rng.integers(3, 6, COUNT), [SHAPES[row % 3] for row in range(COUNT)]
    few, many = np.arange(COUNT) % 4 / 4, rng.permutation(COUNT) + 0.5
    path = tmp_path / "factors.csv"
    path.write_text(text_of({"number": [*number], "shape": words, "few": [*few], "many": [*many]}))  # type: ignore[dict-item]
    dataset = labelled(array, path)
    assert dataset.factor_names == ("number", "shape", "few", "many")
    assert dataset.factor_sizes == (3, 3, 4, 20)
    found = classes(dataset)
    assert found.dtype == np.int64
    assert np.array_equal(found[:, 0], number - 3) and dataset.factor_values[0].tolist() == [3, 4, 5]
    assert [sorted(SHAPES)[c] for c in found[:, 1]] == words and dataset.factor_values[1].tolist() == [
        0,
        1,
        2,
    ]
    assert np.array_equal(dataset.factor_values[2].numpy()[found[:, 2]], few)
    assert np.bincount(found[:, 3]).tolist() == [3] * 20  # equal counts
    assert np.array_equal(found[:, 3], (many - 0.5) // 3)
    assert dataset.factor_values[3].tolist() == [3 * k + 1.5 for k in range(20)]
    plain = load_dataset(array)
    assert torch.equal(dataset.gather(torch.arange(COUNT)), plain.gather(torch.arange(COUNT)))
    assert dataset.identity == plain.identity and torch.equal(dataset.mean_image(), plain.mean_image())


def test_equal_numbers_stay_in_one_class(array: Path, tmp_path: Path) -> None:
    values = np.concatenate([np.zeros(40), np.linspace(1, 2, 20)])
    np.savez(tmp_path / "f.npz", age=values)
    found = classes(labelled(array, tmp_path / "f.npz"))[:, 0]
    assert (found[:40] == 0).all() and found.max() == 7 and (np.diff(found) >= 0).all()


def test_a_column_that_varies_keeps_two_classes(array: Path, tmp_path: Path) -> None:
    lights = np.ones(10 * COUNT)
    lights[:21] = np.linspace(0, 0.5, 21)
    np.save(tmp_path / "many.npy", np.zeros((len(lights), 8, 8), np.uint8))
    for values in (lights, -lights):
        np.savez(tmp_path / "f.npz", light=values)
        found = classes(labelled(tmp_path / "many.npy", tmp_path / "f.npz"))[:, 0]
        brightest, darkest = np.abs(values) == 1, np.abs(values) < 1
        assert not set(found[brightest]) & set(found[darkest])


def test_arrays_of_any_precision_and_text_of_bytes(array: Path, tmp_path: Path) -> None:
    values = np.arange(COUNT) / 64
    for dtype in (np.float16, ">f4", np.longdouble):
        np.savez(tmp_path / "f.npz", a=values.astype(dtype))
        assert np.array_equal(classes(labelled(array, tmp_path / "f.npz"))[:, 0], np.arange(COUNT) // 3)
    os.rename(tmp_path / "f.npz", tmp_path / "f.npy")  # the content says what it is
    assert labelled(array, tmp_path / "f.npy").factor_names == ("a",)
    words = np.array(["größer", "kleiner"] * (COUNT // 2))
    np.savez(tmp_path / "f.npz", text=words, bytes=np.char.encode(words, "utf-8"))
    found = classes(labelled(array, tmp_path / "f.npz"))
    assert np.array_equal(found, np.stack([np.arange(COUNT) % 2] * 2, axis=1))


def test_a_name_over_two_lines_becomes_one_line(array: Path, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text('"light\n(lux)"\n' + "1\n2\n" * (COUNT // 2))
    assert labelled(array, tmp_path / "f.csv").factor_names == ("light (lux)",)


def test_every_form_of_file_says_the_same(array: Path, tmp_path: Path) -> None:
    size, color = np.arange(COUNT) % 3, np.arange(COUNT) % 5
    fields = np.zeros(COUNT, [("size", "i4"), ("color", "u1")])
    fields["size"], fields["color"] = size, color
    np.save(tmp_path / "fields.npy", fields)
    np.save(tmp_path / "matrix.npy", np.stack([size, color], axis=1))
    np.savez(tmp_path / "named.npz", size=size, color=color)
    columns: dict[str, list[object]] = {"size": [*size], "color": [*color]}
    (tmp_path / "windows.csv").write_bytes("\ufeff".encode() + text_of(columns, end="\r\n").encode())
    (tmp_path / "spaces.csv").write_text(text_of(columns, mark=" ,  ") + "\n\n")
    (tmp_path / "semicolons.csv").write_text(text_of(columns, mark=";"))
    (tmp_path / "tabs.tsv").write_text(text_of(columns, mark="\t"))
    (tmp_path / "quoted.csv").write_text(
        text_of({f'"{k}"': [f'"{v}"' for v in c] for k, c in columns.items()})
    )
    for path in sorted({*tmp_path.glob("*.*")} - {array}):
        dataset = labelled(array, path)
        assert np.array_equal(classes(dataset), np.stack([size, color], axis=1)), path
        expected = ("column_0", "column_1") if path.name == "matrix.npy" else ("size", "color")
        assert dataset.factor_names == expected


def test_semicolons_come_with_decimal_commas(array: Path, tmp_path: Path) -> None:
    told = ["0,5", "1,25", "10"] * (COUNT // 3)
    (tmp_path / "f.csv").write_text(
        text_of({"Größe": told, "n": [*range(COUNT // 2)] * 2}, mark=";"), encoding="utf-8"
    )
    dataset = labelled(array, tmp_path / "f.csv")
    assert dataset.factor_names == ("Größe", "n") and dataset.factor_values[0].tolist() == [0.5, 1.25, 10]


def test_files_of_a_folder_are_matched_by_name(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    decomposed = unicodedata.normalize("NFD", "übung.png")
    path.write_text(f'size,file\n3,{decomposed}\n1,a/1.png\n2,./a/2.png\n4,"z, last.png"\n', encoding="utf-8")
    opened = open_dataset(photos, factors=path, progress=False)
    assert isinstance(opened, TableImages) and isinstance(opened.images, FolderImages)
    for dataset in (opened, labelled(photos, path)):
        by_name = dict(zip(opened.images.files, classes(dataset)[:, 0].tolist(), strict=True))
        assert by_name == {"a/1.png": 0, "a/2.png": 1, "übung.png": 2, "z, last.png": 3}
        assert torch.equal(dataset.gather(torch.arange(4)), opened.gather(torch.arange(4)))
    write_npz(tmp_path / "f.npz", {"file": np.array(opened.images.files), "size": np.arange(4)})
    assert classes(labelled(photos, tmp_path / "f.npz")).ravel().tolist() == [0, 1, 2, 3]


def test_a_folder_with_other_files_is_refused_by_their_names(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    good = ["a/1.png,1", "a/2.png,2", "übung.png,2", '"z, last.png",1']
    for rows, told in (
        (good[:2], "has no row for 2 of 4 images in .*photos: z, last.png, übung.png"),
        ([*good, "b.png,1"], "names 1 files that are no images in .*photos: b.png"),
        ([*good, "a/1.png,2"], "names a/1.png twice, in its rows 1 and 5"),
        (["", *good], "line 2: must have 2 cells, .* got none"),
    ):
        path.write_text("\n".join(["file,size", *rows]), encoding="utf-8")
        refused(photos, path, told)
    path.write_text("name,size\n" + "\n".join(good))
    refused(photos, path, "must have a column file .*, got name, size")
    path.write_text("file\n" + "\n".join(row.rpartition(",")[0] for row in good))
    refused(photos, path, "no column for a factor")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "its first line must name each column"),
        ("a,,b\n", "must name each column"),
        ("a,b,a\n" + "1,2,3\n" * COUNT, "first line names a twice"),
        ("a,b\n1,2\n1\n", "line 3: must have 2 cells, .* got 1"),
        ("a,b\n1,2\n1,2,3\n", "line 3: must have 2 cells, .* got 3"),
        ("a,b\n1,2\n1, \n", "line 3, column b: is empty"),
        ("a\n1\n\n2\n", "line 3: must have 1 cells, .* got none"),
        ("a\n1\nnan\n" + "1\n" * (COUNT - 2), "line 3, column a: must be finite, got nan"),
        ("a\n1.5\ninf\n" + "1\n" * (COUNT - 2), "line 3, column a: must be finite, got inf"),
        ("a\n1\nNA\n", "line 3, column a: must be a number like the others, got 'NA'"),
        ("a\n" + "1\n2\n" * 10, "column a has 20 rows, but .*images.npy has 60 images"),
        ("a,b\n" + "1,x\n" * COUNT, "no factor varies"),
        ("id\n" + "\n".join(map(str, range(COUNT))), "column id has another value in each of 60 rows"),
        ("file,a\n" + "x.png,1\n" * COUNT, "has a column file, but .*images.npy is no folder"),
        ('a\n"1\n', "not a readable CSV file in UTF-8: .+"),
        ("\udcff\n", "not a readable CSV file in UTF-8: .+"),
    ],
    ids=str,
)  # fmt: skip
def test_a_csv_that_cannot_be_used_is_refused(array: Path, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(array, path, told)


def test_arrays_that_cannot_be_used_are_refused(array: Path, tmp_path: Path) -> None:
    npy, npz = tmp_path / "f.npy", tmp_path / "f.npz"
    half = np.arange(COUNT) % 2
    broken = half.astype(float)
    broken[7] = np.nan
    for content, told in (
        (half, r"factors must have shape \(N, K\) or fields with names, got \(60,\)"),
        (np.stack([half, broken], axis=1), "row 7, column column_1: must be finite, got nan"),
        (half[:, None].astype(complex), "numbers or text, got complex128"),
        (np.zeros((), [("a", "i4")]), r"column a must have one dimension .* got int32 of \(\)"),
        (half[:, None].astype(object), "not a readable file of factors: .*allow_pickle"),
    ):
        np.save(npy, content, allow_pickle=True)
        refused(array, npy, told)
    for members, told in (
        ({"mu": np.zeros((COUNT, 3))}, r"column mu must have one dimension .* of \(60, 3\)"),
        ({"a": half, "count": COUNT}, r"column count must have one dimension .* got int64 of \(\)"),
        ({"a": np.where(half, b"x", b"\xff")}, "column a must be UTF-8"),
        ({"a": half[:-1]}, "column a has 59 rows, but .* 60 images"),
        ({"a": np.where(half, "x", " ")}, "row 0, column a: is empty"),
        ({}, "no column for a factor"),
    ):
        np.savez(npz, **members)
        refused(array, npz, told)
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("readme.txt", "x" * COUNT)
    refused(array, npz, "column readme.txt must have one dimension")
    npz.write_bytes(npz.read_bytes()[:10])
    refused(array, npz, "not a readable file of factors")
    refused(array, tmp_path / "missing.csv", "no such file of factors")
    (tmp_path / "f.xlsx").write_bytes(b"PK")
    refused(array, tmp_path / "f.xlsx", r"factors are read from \.csv, \.npy or \.npz, got \.xlsx")


def test_factors_replace_those_that_a_set_has(array: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(
        'file,size\na/1.png,1\na/2.png,2\nübung.png,2\n"z, last.png",1\n', encoding="utf-8"
    )
    first = labelled(photos, tmp_path / "one.csv")
    np.save(tmp_path / "two.npy", np.array([[1, 5], [1, 6], [2, 5], [2, 6]]))
    second = with_factors(first, os.fspath(tmp_path / "two.npy"))
    assert second.images is first.images and second.factor_sizes == (2, 2)


def test_the_set_moves_with_its_factors(array: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", a=np.arange(COUNT) % 2)
    dataset = labelled(array, tmp_path / "f.npz")
    moved = dataset.to("cpu")
    assert moved is not dataset and torch.equal(moved.factors(torch.tensor([3])), torch.tensor([[1]]))
    assert dataset.share() and repr(dataset).startswith("TableImages(")
    with pytest.raises(IndexError, match="60"):
        dataset.factors(torch.tensor([COUNT]))

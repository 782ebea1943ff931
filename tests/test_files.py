"""JSON files that every reader can read, with nothing lost."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from betavae_fast.evaluation.summary import Channel
from betavae_fast.files import read_json, write_json


def test_what_json_has_no_word_for_comes_back(tmp_path):
    path = tmp_path / "values.json"
    content = {
        "numbers": np.array([1.5, np.inf, -np.inf, np.nan], dtype=np.float32),
        "count": np.int64(3),
        "channel": Channel(1, 0.5, 0.25, 0.25, active=True),
        "none": None,
    }
    write_json(path, content)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads(path.read_text(), parse_constant=refuse)
    np.testing.assert_array_equal([float(value) for value in read["numbers"]], content["numbers"])
    assert read["count"] == 3 and read["none"] is None
    assert read["channel"] == {
        "index": 1, "kl": 0.5, "mean_dispersion": 0.25, "variance": 0.25, "active": True
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [path]


def test_reading_is_the_inverse_of_writing(tmp_path):
    """Texts stay texts and numbers numbers, even where a text reads like a number that JSON lacks."""
    path = tmp_path / "values.json"
    texts = ["nan", "inf", "-inf", "NaN", "\\nan", "\\\\-inf", "\\", "", "1.5", "nano", "π"]
    content = {
        "nan": texts, "numbers": [math.inf, -math.inf, 0.1, 5e-324, -0.0, 2**70], "rest": [True, None, {}]
    }  # fmt: skip
    write_json(path, content | {"undefined": math.nan})
    read = read_json(path)
    undefined = read.pop("undefined")
    assert isinstance(undefined, float) and math.isnan(undefined)
    assert repr(read) == repr(content)  # unlike ==, it tells -0.0 from 0.0 and True from 1


def test_a_file_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "values.json"
    for text in (b"", b'{"a": 1', b"\xff", b"[" * 100_000):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=r"values\.json: not JSON"):
            read_json(path)

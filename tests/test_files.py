"""JSON files that every reader can read, with nothing lost."""

from __future__ import annotations

import json

import numpy as np

from betavae_fast.evaluation.summary import Channel
from betavae_fast.files import write_json


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

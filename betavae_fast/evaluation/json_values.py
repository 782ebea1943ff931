"""Results as JSON that any reader takes."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from betavae_fast.data.cache import atomic_writer


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` (see ``jsonable``), atomically."""
    with atomic_writer(path) as file:
        file.write(json.dumps(jsonable(content), indent=2, allow_nan=False, ensure_ascii=False).encode())


def jsonable(value: Any) -> Any:
    """Dataclasses as objects, arrays as lists. JSON has no number that is not finite: those become the strings
    "nan", "inf" and "-inf", which ``float`` reads back.

    >>> jsonable({"gap": np.array([0.5, np.inf])})
    {'gap': [0.5, 'inf']}
    """
    if isinstance(value, dict):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

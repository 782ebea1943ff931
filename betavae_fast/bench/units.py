"""Writes times, ratios and sizes with the unit that suits them."""

from __future__ import annotations

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def seconds(value: float) -> str:
    scale, unit = next(((s, u) for s, u in _UNITS if value >= s), _UNITS[-1])
    return f"{value / scale:.3g} {unit}"


def times(ratio: float) -> str:
    digits = 2 if ratio < 1 else 1 if ratio < 100 else 0
    return f"{ratio:.{digits}f}×"


def size(count: int) -> str:
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= s), (1, "B"))
    return f"{count / scale:.3g} {unit}"

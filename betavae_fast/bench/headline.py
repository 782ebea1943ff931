"""Writes a measurement as the README states it, and checks the README's statements against the result files."""

from __future__ import annotations

import re
from collections.abc import Iterable

from betavae_fast.bench.results import Measurement, Results

_SHORT = {"forward": "fwd", "backward": "bwd", "forward+backward": "fwd+bwd"}
_CLAIM = r"\w+ (?:fwd\+bwd|fwd|bwd) \(\d[\d, ]*\) \w+, [\w-]+: .+? GB/s\)"
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def headline(m: Measurement) -> str:
    """The measurement in one line. The ratio to a contender that did not run is left out.

    ``latent fwd+bwd (64, 10) fp32, cpp: 20 µs, 3.0× eager, 2.0× torch.compile, 9.9× the floor (20.5 kB at
    10.2 GB/s)``
    """
    parts = [seconds(m.p50)]
    if m.speedup_over_eager is not None:
        parts.append(f"{times(m.speedup_over_eager)} eager")
    if m.speedup_over_compile is not None:
        parts.append(f"{times(m.speedup_over_compile)} torch.compile")
    bandwidth = f"{m.copy_gigabytes_per_second:.3g} GB/s"
    parts.append(f"{times(m.floor_ratio)} the floor ({size(m.bytes)} at {bandwidth})")
    return f"{m.op} {_SHORT[m.direction]} {m.shape} {m.dtype}, {m.contender}: {', '.join(parts)}"


def seconds(value: float) -> str:
    scale, unit = next(((s, u) for s, u in _UNITS if value >= s), _UNITS[-1])
    return f"{value / scale:.3g} {unit}"


def times(ratio: float) -> str:
    digits = 2 if ratio < 1 else 1 if ratio < 100 else 0
    return f"{ratio:.{digits}f}×"


def size(count: int) -> str:
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= s), (1, "B"))
    return f"{count / scale:.3g} {unit}"


def unsupported(text: str, results: Iterable[Results]) -> list[str]:
    """The headlines in ``text`` that follow from no result file, word for word; empty if all of them do."""
    known = {headline(m) for r in results for m in r.measurements}
    claims = re.findall(_CLAIM, " ".join(text.split()))
    return [claim for claim in claims if claim not in known]

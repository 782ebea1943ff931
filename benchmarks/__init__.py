"""Measures the speed of each op against code that people write by hand, and against the speed of the memory.

``python -m benchmarks OP`` makes the figures. It checks parity, then times all contenders in interleaved rounds, so that
their ratios can be trusted. ``betavae_fast.bench`` does this work, as it does for ``betavae-fast bench``; this package
holds the measurements of the project itself. ``pytest benchmarks`` runs the same registry under pytest-benchmark, which
cannot interleave, but keeps and compares the statistics of each contender between two commits.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

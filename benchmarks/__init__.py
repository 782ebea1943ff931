"""Measures the speed of each op against code that people write by hand, and against the speed of the memory.

``python -m benchmarks OP`` makes the figures. It checks parity, then times all contenders in interleaved rounds, so that
their ratios can be trusted; with ``--base REV`` it compares them with another commit. ``betavae_fast.bench`` does this
work, as it does for ``betavae-fast bench``; this package holds the measurements of the project itself. Each module that
writes a result file is a study (``study.py``).
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

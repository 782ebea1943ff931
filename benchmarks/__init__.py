"""How fast each op is, against what people write by hand, and how close to what the memory allows.

``python -m benchmarks OP`` is the source of the figures: it checks parity, then times all contenders in
interleaved rounds, which is what makes their ratios trustworthy (``betavae_fast.bench`` does, as for
``betavae-fast bench``; here is what measures the project itself). ``pytest benchmarks`` runs the same registry
under pytest-benchmark, which cannot interleave, but keeps and compares the statistics of each contender
between two commits.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

"""Computes the static roofline of the GPU kernels, without a GPU; writes results/roofline/ and docs/roofline.md."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton  # type: ignore[import-untyped]

from benchmarks.arguments import parser_of
from benchmarks.machine_code.cuda import SOURCES, compile_source
from benchmarks.machine_code.triton import DTYPES, assemble
from benchmarks.pages import markdown, update
from benchmarks.roofline.kernels import TRITON, Row, of_cuda, of_triton
from benchmarks.roofline.machines import MACHINES
from benchmarks.roofline.model import Kernel
from benchmarks.roofline.table import FILE, PAGE, entry, on_page, slower
from betavae_fast.files import write_json

_ARCHS = {"sm_90": 90, "sm_80": 80}
_OF_PAIRS = "log_densities"


def _of_triton(op: str, arch: str) -> list[tuple[Row, Kernel]]:
    # The kernels of pairs read float32 tables for inputs of any dtype.
    dtypes = ("float32",) if op == _OF_PAIRS else DTYPES
    return [
        of_triton(op, variant, dtype, _ARCHS[arch], assemble(op, variant, DTYPES[dtype], _ARCHS[arch]))
        for variant in TRITON[op]
        for dtype in dtypes
    ]


def _kernels(archs: Sequence[str]) -> Iterator[tuple[Row, Kernel]]:
    """Compile all kernels, with two compilers at a time: Triton and nvcc first, then nvcc twice."""
    each = [(op, arch) for op in TRITON for arch in archs]
    with ThreadPoolExecutor(2) as pool:
        triton_rows = pool.submit(lambda: {(op, arch): _of_triton(op, arch) for op, arch in each})
        for future in [
            pool.submit(compile_source, source, arch) for op, arch in each for source in SOURCES[op]
        ]:
            future.result()
        for op, arch in each:
            yield from of_cuda(op, arch).items()
            yield from triton_rows.result()[op, arch]


def _versions() -> dict[str, str]:
    nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"\bV([\d.]+)", nvcc)
    return {"nvcc": release[1] if release else nvcc, "triton": triton.__version__}


def show(kernels: Sequence[dict[str, Any]]) -> str:
    """A table with the instructions of an element (a pair and channel in the log densities), bytes and sizes."""
    counts = ("all", "fma", "integer_multiply", "alu", "xu", "lsu")
    columns = ("op", "arch", "kernel", "dtype", "bytes:", *(f"{name}:" for name in counts), "registers:")
    rows = [
        (
            *(e["op"], e["arch"], f"{e['backend']} {e['kernel']}", e["dtype"], f"{e['bytes_per_element']:g}"),
            *(f"{e['instructions_per_element'].get(name, 0):g}" for name in counts),
            str(e["registers"]),
            ", ".join(
                f"{name} {p['fraction']:.0%} {p['limiter']}, occupancy {p['occupancy']:.0%}"
                for name, p in e["predicted"].items()
            ),
        )
        for e in kernels
    ]
    return markdown((*columns, "predicted"), rows)


def main() -> int:
    parser = parser_of("benchmarks.roofline", __doc__)
    parser.add_argument("--archs", choices=_ARCHS, nargs="+", help="only these architectures; writes nothing")
    parser.add_argument(
        "--check",
        action="store_true",
        help="fail if a kernel is predicted slower than in the committed table; writes nothing",
    )
    options = parser.parse_args()
    kernels = dict(_kernels(options.archs or list(_ARCHS)))
    document: dict[str, Any] = {
        "command": "python -m benchmarks.roofline",
        "versions": _versions(),
        "machines": [machine._asdict() for machine in MACHINES],
        "kernels": [entry(row, kernel) for row, kernel in kernels.items()],
    }
    print(show(document["kernels"]))
    if options.check:
        lines = slower(kernels)
        print(*lines, sep="\n")
        return 1 if lines else 0
    if not options.archs:
        write_json(FILE, document)
        update(PAGE, "table", on_page(document))
        print(f"Written to {FILE} and {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

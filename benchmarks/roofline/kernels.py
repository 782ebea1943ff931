"""The kernels of the roofline's table, compiled as in the tests of their budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks.machine_code import sass
from benchmarks.machine_code.cuda import compile_op
from benchmarks.roofline.model import Kernel

if TYPE_CHECKING:
    from benchmarks.machine_code.triton import Assembly

# Number of channels by which the log densities' loops over channels are weighted against those over pairs.
CHANNELS = 10
_SIZES = {"float32": 4, "bfloat16": 2}
_CUDA_TYPES = {"float": "float32", "BFloat16": "bfloat16"}
_CUDA_THREADS, _CUDA_PAIR_THREADS = 256, 128
# Kernel -> (its name in the table, number of tensors of the input's dtype that it reads or writes, further bytes of an
# element). All are variants that read and write 16 bytes at a time.
_CUDA: dict[str, dict[str, tuple[str, int, float]]] = {
    "latent": {
        "forward<{}, true, true, (Reduction)1>": ("forward dim", 3, 0),
        "forward<{}, true, true, (Reduction)2>": ("forward sample", 3, 0),
        "forward<{}, true, true, (Reduction)0>": ("forward none", 3, 4),
        "forward<{}, true, true, (Reduction)-1>": ("sample", 3, 0),
        "forward<{}, true, false, (Reduction)1>": ("kl dim", 2, 0),
        "backward<{}, true, true, (Reduction)1>": ("backward dim", 5, 0),
        "backward<{}, true, true, (Reduction)2>": ("backward sample", 5, 0),
        "backward<{}, true, true, (Reduction)0>": ("backward none", 5, 4),
    },
    "likelihood": {
        "forward<Variant<{0}, ThreadOperand<{0}, true>, true>, (Reduction)4>": ("forward batchmean", 3, 0),
        "forward<Variant<{0}, ThreadOperand<{0}, true>, true>, (Reduction)2>": ("forward sample", 3, 0),
        "forward<Variant<{0}, ThreadOperand<{0}, true>, true>, (Reduction)0>": ("forward none", 3, 4),
        "forward<Variant<{0}, ThreadOperand<Byte, true>, true>, (Reduction)4>": (
            "forward batchmean, uint8",
            2,
            1,
        ),
        "forward<Variant<{0}, ThreadOperand<Bit, true>, true>, (Reduction)4>": (
            "forward batchmean, bits",
            2,
            1 / 8,
        ),
        "backward<Variant<{0}, ThreadOperand<{0}, true>, true> >": ("backward none", 3, 4),
    },
}
# Exponentials of a pair and channel: a pair has one in each channel, and one for all channels together.
_EXPONENTIALS = 1 + 1 / CHANNELS
# Kernel -> (pairs of a thread, which are its posteriors times its rows; exponentials of a pair and channel).
_CUDA_PAIRS = {
    "joint": (32, 1 / CHANNELS),
    "marginals": (32, 1),
    "sweep<(Owner)0>": (16, _EXPONENTIALS),
    "sweep<(Owner)1>": (16, _EXPONENTIALS),
}
# The launches in benchmarks/machine_code/launches/ that the table includes.
TRITON = {
    "latent": (
        *("forward dim (B, 128)", "forward sample (B, 128)", "forward none (B, 128)", "sample (B, 128)"),
        *("kl dim (B, 128)", "backward dim (B, 128)", "backward sample (B, 128)", "backward none (B, 128)"),
    ),
    "likelihood": (
        *("forward batchmean", "forward batchmean, uint8", "forward batchmean, bits", "backward sample"),
        *("finish batchmean", "forward sample, no gradient"),
    ),
    "log_densities": ("sum_densities mss", "row_gradients mss", "posterior_gradients mss"),
}


class Row(NamedTuple):
    """The key of a kernel in the table."""

    op: str
    backend: str
    kernel: str
    dtype: str
    arch: str

    def __str__(self) -> str:
        return " ".join((self.backend, self.op, self.kernel, self.dtype, self.arch))


def of_pairs(
    code: sass.Code, registers: int, shared_bytes: int, threads: int, pairs: int, exponentials: float
) -> Kernel:
    """The work of one round of a kernel of pairs; its loops over channels run once for each of ``CHANNELS``.

    An element is a pair and channel.
    """
    of_channels = [body for body in sass.inner_loops(code) if any("FFMA" in text for _, text in body)]
    way = sass.once_round(code)
    inner = [instruction for body in of_channels for instruction in sass.once_round(body)]
    channels = CHANNELS if len(inner) < len(way) else 1
    rounds = way + inner * (channels - 1)
    return Kernel(rounds, registers, shared_bytes, threads, pairs * channels, 0, exponentials)


def of_cuda(op: str, arch: str) -> dict[Row, Kernel]:
    compiled = compile_op(op, arch)
    found: dict[Row, Kernel] = {}
    for name, (pairs, exponentials) in _CUDA_PAIRS.items() if op == "log_densities" else ():
        code, resources = compiled[name].code, compiled[name].resources
        sizes = (resources["registers"], resources["shared_bytes"], _CUDA_PAIR_THREADS)
        found[Row(op, "cuda", name, "float32", arch)] = of_pairs(code, *sizes, pairs, exponentials)
    for pattern, (name, tensors, further) in _CUDA.get(op, {}).items():
        for spelled, dtype in _CUDA_TYPES.items():
            kernel = compiled[pattern.format(spelled)]
            size = _SIZES[dtype]
            found[Row(op, "cuda", name, dtype, arch)] = Kernel(
                sass.once_round(kernel.code),
                kernel.resources["registers"],
                kernel.resources["shared_bytes"],
                _CUDA_THREADS,
                elements=16 // size,
                bytes=tensors * size + further,
            )
    return found


def _triton_bytes(op: str, variant: str, size: int) -> float:
    """The bytes of an element that are read from memory or written to it."""
    if op == "likelihood":
        target = 1 if "uint8" in variant else 1 / 8 if "bits" in variant else size
        return target + size * (1 if "no gradient" in variant else 2)
    tensors = {"forward": 3, "sample": 3, "kl": 2, "backward": 5}[variant.split()[0]]
    return size * tensors + (4 if " none " in variant else 0)


def of_triton(op: str, variant: str, dtype: str, capability: int, found: Assembly) -> tuple[Row, Kernel]:
    row = Row(op, "triton", variant, dtype, f"sm_{capability}")
    sizes = (found.registers, found.shared, found.threads)
    if found.pairs:
        # Among the programs of the densities, count those of the joint density, which loop over channels.
        exponentials = 1 / CHANNELS if variant.startswith("sum_densities") else _EXPONENTIALS
        return row, of_pairs(found.instructions, *sizes, found.pairs, exponentials)
    moved = _triton_bytes(op, variant, _SIZES[dtype])
    return row, Kernel(sass.once_round(found.instructions), *sizes, found.elements, moved)

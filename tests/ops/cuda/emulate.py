"""A build of the CUDA backend for the CPU: the kernels run under emulator.h, and the operators are registered for CPU
tensors.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

CSRC = Path(__file__).resolve().parents[3] / "csrc"
HERE = Path(__file__).resolve().parent

_LAUNCH = re.compile(r"(\w+)<<<(.*?), (\w+), 0, .*?>>>\((.*?)\);", re.DOTALL)
# The texts that tie the operators to a GPU, and their stand-ins.
_STAND_INS = {
    "is_cuda()": "is_cpu()",
    "betavae_fast, CUDA, m": "betavae_fast, CPU, m",
    "torch::stable::accelerator::DeviceGuard guard_;": "struct Guard { explicit Guard(int) {} } guard_;",
    "aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_)": "TORCH_SUCCESS",
}


def _emulated_kernel(source: str) -> str:
    emulated, launches = _LAUNCH.subn(r"emulator::launch(\1, \2, \3, \4);", source)
    assert launches == source.count("<<<") > 0
    return emulated


def _count_look_ups(pixels: Path) -> None:
    """Count the pixels that are read one by one, each by its place. They have the same bits as pixels read together, so
    only a count tells them apart.
    """
    source, slow = pixels.read_text(), "    int64_t offsets[n];\n"
    assert source.count(slow) == 1
    pixels.write_text(source.replace(slow, f"{slow}    ++emulator::looked_up;\n"))


def _emulate_operators(*files: Path) -> None:
    for real, stand_in in _STAND_INS.items():
        assert any(real in file.read_text() for file in files), f"{files} no longer say {real!r}"
        for file in files:
            file.write_text(file.read_text().replace(real, stand_in))


def build(folder: Path, op: str) -> Path:
    """Build the emulated library of one op. Raises LookupError if there is no compiler."""
    if (cxx := shutil.which("g++")) is None:
        raise LookupError("g++ was not found")
    tree = shutil.copytree(CSRC, folder / "csrc")
    kernels = [*sorted((tree / "cuda").glob(f"{op}_*.cu")), tree / "cuda" / "reduce.cu"]
    for kernel in kernels:
        kernel.with_suffix(".cpp").write_text(_emulated_kernel(kernel.read_text()))
    _count_look_ups(tree / "cuda" / "pixels.cuh")
    operators = tree / "boundary" / f"cuda_{op}.cpp"
    _emulate_operators(operators, tree / "boundary" / "cuda.h")
    common = [cxx, "-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-w", "-c"]
    # A fortified longjmp mistakes the stack of another fiber for a frame that has ended.
    cuda = [*common, "-U_FORTIFY_SOURCE", f"-I{tree / 'include'}", f"-I{HERE}", "-include", "emulator.h"]
    torch_flags = [
        "-DTORCH_TARGET_VERSION=0x020b000000000000",
        "-DUSE_CUDA",
        *(f"-I{p}" for p in include_paths()),
    ]
    commands = [[*cuda, str(kernel.with_suffix(".cpp"))] for kernel in kernels]
    commands += [[*common, *torch_flags, str(source)] for source in (operators, tree / "cuda" / "tuning.cpp")]
    objects = [str(folder / f"{i}.o") for i in range(len(commands))]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda c, o: subprocess.run([*c, "-o", o], check=True), commands, objects))
    library = folder / f"{op}_emulated.so"
    torch_lib = Path(torch.__file__).parent / "lib"
    subprocess.run(
        [cxx, "-shared", *objects, f"-L{torch_lib}", "-ltorch_cpu", "-o", str(library)], check=True
    )
    return library

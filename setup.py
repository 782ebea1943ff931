"""Builds the two optional libraries: _C (C++ kernels, wants a C++17 compiler) and _C_cuda (wants nvcc).

Neither is linked against anything but LibTorch's stable ABI, and no GPU is needed to build. What cannot be built is left
out; the reason is written into the package, where ``betavae-fast info`` finds it. The environment variables
BETAVAE_FAST_CPP and BETAVAE_FAST_CUDA change that: 0 leaves the library out, 1 makes its failure an error.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = "betavae_fast"
CPP = Extension(f"{PACKAGE}._C", sources=[], optional=True)
CUDA = Extension(f"{PACKAGE}._C_cuda", sources=[], optional=True)

# With flags of their kernels' own. No bits are promised of the total correlation, and vector types know no fma().
OPS = {"latent": "", "likelihood": "", "total_correlation": "-ffp-contract=fast"}
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11 and every later one
# Bits are part of the contract: nothing is fused that the source does not fuse, nothing is reordered.
CXX_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -ffp-contract=off -fno-math-errno -fno-trapping-math"
# Interleaving the kernels' long chains of dependent operations is worth 10% to 25% (g++ 12, Zen 3).
KERNEL_FLAGS = f"{CXX_FLAGS} -fschedule-insns -fsched-pressure"
INSTRUCTION_SETS = {
    "avx2": "-mavx2 -mfma",
    "avx512": "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512",
}
NVCC_FLAGS = "-std=c++17 -O3 --fmad=false -Xcompiler=-fPIC,-fvisibility=hidden"
CUDA_ARCHS = "8.0;9.0+PTX"  # unless TORCH_CUDA_ARCH_LIST says otherwise, in the same form


class UnavailableError(Exception):
    """A library cannot be built here; the message says why."""


def find_tool(variable: str, *names: str) -> str:
    candidates = [os.environ[variable]] if variable in os.environ else list(names)
    for name in candidates:
        if found := shutil.which(name):
            return found
    raise UnavailableError(f"{' or '.join(candidates)} was not found at install time")


def find_nvcc() -> Path:
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (nvcc := Path(home) / "bin" / "nvcc").exists():
            return nvcc
    if found := shutil.which("nvcc"):
        return Path(found)
    raise UnavailableError("nvcc was not found at install time")


def torch_paths() -> tuple[list[str], Path]:
    try:
        import torch
        from torch.utils.cpp_extension import include_paths
    except ImportError:
        raise UnavailableError(
            "torch was not importable at install time: use pip's --no-build-isolation"
        ) from None
    return [f"-isystem {p}" for p in include_paths()], Path(torch.__file__).parent / "lib"


def ninja_escape(path: Path | str) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class NinjaFile:
    """A build.ninja with one rule for all: the command stands with each output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines = [
            "rule run",
            "  command = $cmd",
            "  depfile = $dep",
            "  deps = gcc",
            "rule link",
            "  command = $cmd",
        ]

    def compile(self, compiler: str, source: str, flags: str, name: str) -> str:
        output = self.folder / name
        command = f"{compiler} {flags} -MD -MF {output}.d -c {Path(source).resolve()} -o {output}"
        self.lines += [f"build {ninja_escape(output)}: run {ninja_escape(Path(source).resolve())}"]
        self.lines += [f"  cmd = {command}", f"  dep = {output}.d"]
        return str(output)

    def link(self, linker: str, objects: list[str], flags: str, output: Path) -> None:
        inputs = " ".join(map(ninja_escape, objects))
        self.lines += [f"build {ninja_escape(output)}: link {inputs}"]
        self.lines += [f"  cmd = {linker} -shared {' '.join(objects)} {flags} -o {output}"]

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "build.ninja").write_text("\n".join(self.lines) + "\n")
        try:
            from ninja import BIN_DIR

            ninja = str(Path(BIN_DIR) / "ninja")
        except ImportError:
            ninja = find_tool("NINJA", "ninja")
        done = subprocess.run([ninja, "-C", str(self.folder)], text=True, capture_output=True)
        if done.returncode:
            print(done.stdout, done.stderr)
            error = next(
                (line for line in done.stdout.splitlines() if "error" in line), "see the build's output"
            )
            raise UnavailableError(f"the compiler failed: {error.strip()}")


def build_cpp(output: Path, folder: Path) -> None:
    cxx = find_tool("CXX", "c++", "g++", "clang++")
    includes, torch_lib = torch_paths()
    ninja = NinjaFile(folder)
    instruction_sets = {"baseline": ""}
    if platform.machine() in ("x86_64", "AMD64"):
        instruction_sets |= INSTRUCTION_SETS
    objects = []
    for op, own_flags in OPS.items():
        for name, isa_flags in instruction_sets.items():
            flags = f"{KERNEL_FLAGS} {own_flags} {isa_flags} -DBVF_ISA={name}"
            objects.append(ninja.compile(cxx, f"csrc/cpu/{op}.cpp", flags, f"{op}_{name}.o"))
    objects.append(ninja.compile(cxx, "csrc/cpu/dispatch.cpp", CXX_FLAGS, "dispatch.o"))
    torch_flags = f"{CXX_FLAGS} {STABLE_ABI} {' '.join(includes)}"
    for op in OPS:
        objects.append(ninja.compile(cxx, f"csrc/register_cpu_{op}.cpp", torch_flags, f"register_{op}.o"))
    ninja.link(cxx, objects, f"-L{torch_lib} -ltorch_cpu", output)
    ninja.run()


def gencode_flags(archs: str) -> str:
    flags = []
    for arch in archs.replace(" ", ";").split(";"):
        number, _, ptx = arch.replace(".", "").partition("+")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return " ".join(flags)


def build_cuda(output: Path, folder: Path) -> None:
    nvcc = find_nvcc()
    cxx = find_tool("CXX", "c++", "g++", "clang++")
    includes, torch_lib = torch_paths()
    ninja = NinjaFile(folder)
    flags = f"{NVCC_FLAGS} {gencode_flags(os.environ.get('TORCH_CUDA_ARCH_LIST') or CUDA_ARCHS)}"
    objects = [
        ninja.compile(f"{nvcc} -ccbin {cxx}", str(source), flags, f"{source.stem}.cu.o")
        for source in sorted(Path("csrc/cuda").glob("*.cu"))
    ]
    torch_flags = f"{CXX_FLAGS} {STABLE_ABI} -DUSE_CUDA {' '.join(includes)}"
    objects += [
        ninja.compile(cxx, str(source), torch_flags, f"{source.stem}.o")
        for source in sorted(Path("csrc").glob("register_cuda_*.cpp"))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    if not (torch_lib / "libtorch_cuda.so").exists():
        # A CPU build of torch lacks the library that the CUDA one will bring: an empty one of that name stands in while
        # linking.
        stub = [
            cxx,
            "-shared",
            "-Wl,-soname,libtorch_cuda.so",
            "-o",
            str(folder / "libtorch_cuda.so"),
            "-xc++",
            "/dev/null",
        ]
        if subprocess.run(stub, capture_output=True).returncode:
            raise UnavailableError("a stand-in for libtorch_cuda.so could not be linked")
    libraries = f"-L{torch_lib} -L{folder} -Wl,--no-as-needed -ltorch_cpu -ltorch_cuda"
    cudart = next(
        p for p in (nvcc.resolve().parent.parent / "lib64", Path("/usr/lib/x86_64-linux-gnu")) if p.exists()
    )
    ninja.link(cxx, objects, f"{libraries} -L{cudart} -lcudart_static -ldl -lrt -lpthread", output)
    ninja.run()


BUILDERS = {CPP.name: (build_cpp, "BETAVAE_FAST_CPP"), CUDA.name: (build_cuda, "BETAVAE_FAST_CUDA")}


class BuildExtensions(build_ext):
    """Each library by its builder; what is left out, and why, goes into _build.txt."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def run(self) -> None:
        self.left_out: dict[str, str] = {}
        super().run()
        package = Path(PACKAGE) if self.inplace or self.editable_mode else Path(self.build_lib) / PACKAGE
        note = "".join(f"{name.rpartition('.')[2]}: {why}\n" for name, why in self.left_out.items())
        (package / "_build.txt").write_text(note)

    def build_extension(self, ext: Extension) -> None:
        build, variable = BUILDERS[ext.name]
        wish = os.environ.get(variable)
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)
        try:
            if wish == "0":
                raise UnavailableError(f"{variable}=0 at install time")
            build(output, (Path(self.build_temp) / ext.name).resolve())
        except UnavailableError as why:
            if wish == "1":
                raise RuntimeError(f"{ext.name} cannot be built, and {variable}=1: {why}") from None
            self.left_out[ext.name] = str(why)
            (Path(PACKAGE) / output.name).unlink(missing_ok=True)
            print(f"{ext.name} is left out: {why}")


# torch loads the libraries, which know nothing of Python: one wheel serves every version of both.
setup(
    ext_modules=[CPP, CUDA],
    cmdclass={"build_ext": BuildExtensions},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)

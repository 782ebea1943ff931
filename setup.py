"""Build the two optional libraries: _C (C++ kernels, needs a C++17 compiler) and _C_cuda (needs nvcc).

Of LibTorch, both use only the stable ABI, and no GPU is needed to build them. A library that cannot be built is left out.
So is _C_cuda where torch has no CUDA: it could not run there, and takes minutes. The reason is written into the package,
where ``betavae-fast info`` finds it. The environment variables BETAVAE_FAST_CPP and BETAVAE_FAST_CUDA change that: 0
leaves the library out, 1 builds it, and then a failed build is an error. A missing source file is always an error.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import setuptools
from setuptools.command.build_ext import build_ext

PACKAGE = "betavae_fast"
SETUPTOOLS = 77  # the first version that accepts the license expression in pyproject.toml

# Ops and their extra compiler flags. The log densities do not promise exact bits, so the compiler may fuse its
# arithmetic; its vector types have no fma() to call.
OPS = {"latent": "", "likelihood": "", "log_densities": "-ffp-contract=fast"}
CPP_SOURCES = [
    "csrc/cpu/dispatch.cpp",
    *(f"csrc/cpu/{op}.cpp" for op in OPS),
    *(f"csrc/boundary/cpu_{op}.cpp" for op in OPS),
    "csrc/cpu/convolution.cpp",
    "csrc/boundary/cpu_convolution.cpp",
]
CUDA_SOURCES = [
    *(f"csrc/cuda/{name}.cu" for name in ("probe", "reduce", "log_densities_prepare")),
    *(f"csrc/cuda/{op}_{direction}.cu" for op in OPS for direction in ("forward", "backward")),
    "csrc/cuda/tuning.cpp",
    *(f"csrc/boundary/cuda_{op}.cpp" for op in OPS),
]
CPP = setuptools.Extension(f"{PACKAGE}._C", CPP_SOURCES, optional=True)
CUDA = setuptools.Extension(f"{PACKAGE}._C_cuda", CUDA_SOURCES, optional=True)
CPP_WISH, CUDA_WISH = "BETAVAE_FAST_CPP", "BETAVAE_FAST_CUDA"  # environment variables

STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11 and later
# Exact bits are part of the contract, so the compiler must neither fuse nor reorder operations.
CXX_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -ffp-contract=off -fno-math-errno -fno-trapping-math"
# Interleaving the kernels' long chains of dependent operations saves 10% to 25% (g++ 12, Zen 3). clang lacks these flags.
SCHEDULING_FLAGS = "-fschedule-insns -fsched-pressure"
INSTRUCTION_SETS = {
    "avx2": "-mavx2 -mfma",
    "avx512": "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512",
}
# Those with instructions for bfloat16, in which there are convolutions; left out if the compiler does not know them.
BFLOAT16_INSTRUCTION_SETS = {
    "avx512_bf16": f"{INSTRUCTION_SETS['avx512']} -mavx512bf16",
    "amx": f"{INSTRUCTION_SETS['avx512']} -mavx512bf16 -mamx-tile -mamx-bf16",
}
NVCC_FLAGS = "-std=c++17 -O3 --fmad=false -Xcompiler=-fPIC,-fvisibility=hidden"
# Default architectures; those that nvcc does not know are left out. TORCH_CUDA_ARCH_LIST replaces them, in the same form.
# Other GPUs from 9.0 on compile the PTX on first use.
CUDA_ARCHS = "8.0;9.0+PTX;10.0;12.0"
# Apple's linker must allow symbols that torch's libraries define in the running process.
SHARED = ["-shared", *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else [])]


class UnavailableError(Exception):
    """A library cannot be built here; the message says why."""


class CompilerError(UnavailableError):
    """There is a compiler, but it failed."""


def require_setuptools(version: str) -> None:
    if int(version.partition(".")[0]) < SETUPTOOLS:
        sys.exit(
            f"{PACKAGE} is built by setuptools >= {SETUPTOOLS}, found {version}: "
            f'python -m pip install "setuptools>={SETUPTOOLS}"'
        )


def require_sources(sources: list[str]) -> None:
    """End the build if a source, or a header that a source includes, is missing or empty."""
    files = list(sources)
    for file in files:
        text = Path(file).read_text(encoding="utf-8") if Path(file).is_file() else ""
        if not text.strip():
            sys.exit(f"{PACKAGE}: {file} is missing or empty: the source tree is incomplete, get it again")
        for name in re.findall(r'^#include "(.+)"', text, re.MULTILINE):
            header = os.path.normpath(os.path.join(os.path.dirname(file), name))
            files += [header] if header not in files else []


def find_tool(variable: str, *names: str) -> str:
    candidates = [os.environ[variable]] if variable in os.environ else list(names)
    for name in candidates:
        if found := shutil.which(name):
            return found
    raise UnavailableError(f"{' or '.join(candidates)} was not found at install time")


def find_nvcc() -> str:
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    for name in [*(f"{home}/bin/nvcc" for home in homes if home), "nvcc"]:
        if found := shutil.which(name):
            return found
    raise UnavailableError("nvcc was not found at install time")


def torch_paths() -> tuple[Path, Path]:
    """Return the folders of torch's headers and libraries."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        raise UnavailableError("torch was not found at install time: use pip's --no-build-isolation")
    folder = Path(torch.origin).parent
    return folder / "include", folder / "lib"


def accepts(compiler: str, *flags: str) -> bool:
    """Tell whether the compiler knows ``flags``, by compiling an empty file."""
    command = [compiler, "-Werror", *flags, "-fsyntax-only", "-xc++", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def first_error(log: str) -> str:
    """Find the compiler's first error in ninja's output: "FAILED:", the command, then the command's output."""
    said = log.partition("FAILED:")[2].splitlines()[2:] or log.splitlines() or ["no message"]
    errors = (line for line in said if re.search(r"\b(error|fatal) *:(?! ld returned| linker command)", line))
    return next(errors, said[0]).strip()


class NinjaFile:
    """Commands for ninja, which runs them by a shell in the source tree.

    File names are relative to the tree, so that the tree's own path, which may hold any character, need not be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: list[str] = []
        self.lines = [
            f"builddir = {folder}",
            "rule compile",
            "  command = $cmd",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            "  command = $cmd",
        ]

    def add(self, rule: str, output: str, inputs: list[str], command: list[str]) -> None:
        self.lines += [f"build {output}: {rule} {' '.join(inputs)}"]
        self.lines += [f"  cmd = {shlex.join(command).replace('$', '$$')}"]

    def compile(self, command: list[str], source: str, name: str) -> None:
        output = f"{self.folder}/{name}.o"
        files = ["-MMD", "-MF", f"{output}.d", "-c", source, "-o", output]
        self.add("compile", output, [source], [*command, *files])
        self.objects.append(output)

    def link(self, command: list[str], libraries: list[str]) -> Path:
        """Run all commands, and return the library."""
        output = f"{self.folder}/library.so"
        self.add("link", output, self.objects, [*command, *SHARED, *self.objects, *libraries, "-o", output])
        Path(self.folder, "build.ninja").write_bytes(os.fsencode("\n".join(self.lines) + "\n"))
        try:
            from ninja import BIN_DIR

            ninja = str(Path(BIN_DIR, "ninja"))
        except ImportError:
            ninja = find_tool("NINJA", "ninja")
        done = subprocess.run(
            [ninja, "-f", f"{self.folder}/build.ninja"],
            env=os.environ | {"LC_ALL": "C"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="ascii",
            errors="backslashreplace",
        )
        if done.returncode:
            print(done.stdout)
            raise CompilerError(f"the compiler failed: {first_error(done.stdout)}")
        return Path(output)


def build_cpp(folder: Path) -> Path:
    cxx = find_tool("CXX", "c++", "g++", "clang++")
    include, torch_lib = torch_paths()
    ninja = NinjaFile(folder)
    scheduling = " ".join(flag for flag in SCHEDULING_FLAGS.split() if accepts(cxx, flag))
    instruction_sets, bfloat16_sets = {"baseline": ""}, {}
    if platform.machine() in ("x86_64", "AMD64"):
        instruction_sets |= INSTRUCTION_SETS
        bfloat16_sets = BFLOAT16_INSTRUCTION_SETS
    for op, own_flags in OPS.items():
        for name, isa_flags in instruction_sets.items():
            flags = f"{CXX_FLAGS} {scheduling} {own_flags} {isa_flags} -DBVF_ISA={name}"
            ninja.compile([cxx, *flags.split()], f"csrc/cpu/{op}.cpp", f"{op}_{name}")
    dispatch = [cxx, *CXX_FLAGS.split()]
    for name, isa_flags in bfloat16_sets.items():
        if accepts(cxx, *isa_flags.split()):
            flags = f"{CXX_FLAGS} {isa_flags} -DBVF_ISA={name}"
            ninja.compile([cxx, *flags.split()], "csrc/cpu/convolution.cpp", f"convolution_{name}")
            dispatch.append(f"-DBVF_{name.upper()}")
    ninja.compile(dispatch, "csrc/cpu/dispatch.cpp", "dispatch")
    command = [cxx, *CXX_FLAGS.split(), STABLE_ABI, "-isystem", str(include)]
    for op in (*OPS, "convolution"):
        ninja.compile(command, f"csrc/boundary/cpu_{op}.cpp", f"register_{op}")
    return ninja.link([cxx], [f"-L{torch_lib}", "-ltorch_cpu"])


def gencode_flags(nvcc: str) -> list[str]:
    wish = os.environ.get("TORCH_CUDA_ARCH_LIST")
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout.split()
    flags = []
    for arch in re.findall(r"[^;\s]+", wish or CUDA_ARCHS):
        number, _, ptx = arch.replace(".", "").partition("+")
        if wish or f"sm_{number}" in known:
            codes = [f"sm_{number}", *([f"compute_{number}"] if ptx else [])]
            flags += [f"-gencode=arch=compute_{number},code={code}" for code in codes]
    if not flags:
        raise CompilerError(f"{nvcc} --list-gpu-code names none of {CUDA_ARCHS}")
    return flags


def build_cuda(folder: Path) -> Path:
    include, torch_lib = torch_paths()
    torch_has_cuda = (torch_lib / "libtorch_cuda.so").exists()
    if not torch_has_cuda and os.environ.get(CUDA_WISH) != "1":
        raise UnavailableError(
            f"torch was installed without CUDA; {CUDA_WISH}=1 builds the kernels for another machine"
        )
    nvcc = find_nvcc()
    cxx = find_tool("CXX", "c++", "g++", "clang++")
    ninja = NinjaFile(folder)
    commands = {
        ".cu": [nvcc, "-ccbin", cxx, *NVCC_FLAGS.split(), *gencode_flags(nvcc)],
        ".cpp": [cxx, *CXX_FLAGS.split(), STABLE_ABI, "-DUSE_CUDA", "-isystem", str(include)],
    }
    for source in CUDA.sources:
        ninja.compile(commands[Path(source).suffix], source, Path(source).name)
    if not torch_has_cuda:
        # A CPU build of torch lacks this library, which a CUDA build brings at run time: link to an empty one.
        name = "libtorch_cuda.so"
        stub = [cxx, "-shared", f"-Wl,-soname,{name}", "-o", str(folder / name), "-xc++", os.devnull]
        if subprocess.run(stub, capture_output=True).returncode:
            raise CompilerError(f"a stand-in for {name} could not be linked")
    cuda_lib = Path(nvcc).resolve().parent.parent / "lib64"
    folders = [f"-L{path}" for path in (torch_lib, folder, cuda_lib)]
    libraries = ["-ltorch_cpu", "-ltorch_cuda", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    return ninja.link([cxx], [*folders, "-Wl,--no-as-needed", *libraries])


BUILDERS = {CPP.name: (build_cpp, CPP_WISH), CUDA.name: (build_cuda, CUDA_WISH)}


class BuildExtensions(build_ext):
    """Build each library with its builder, and write into _build.txt which ones are left out, and why."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def run(self) -> None:
        self.package_folder = Path(PACKAGE) if self.inplace else Path(self.build_lib, PACKAGE)
        self.left_out: dict[str, str] = {}
        super().run()
        note = "".join(f"{name.rpartition('.')[2]}: {why}\n" for name, why in self.left_out.items())
        (self.package_folder / "_build.txt").write_text(note, encoding="utf-8")

    def build_extension(self, ext: setuptools.Extension) -> None:
        build, variable = BUILDERS[ext.name]
        wish = os.environ.get(variable)
        output = Path(self.get_ext_fullpath(ext.name))
        folder = Path("build", ext.name)
        for path in (output, self.package_folder / output.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        try:
            if wish == "0":
                raise UnavailableError(f"{variable}=0 at install time")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(build(folder), output)
        except (UnavailableError, OSError) as why:
            if wish == "1":
                sys.exit(f"{ext.name} cannot be built, and {variable}=1: {why}")
            self.left_out[ext.name] = str(why)
            frame = "" if type(why) is UnavailableError else "*" * 80 + "\n"
            print(f"{frame}{ext.name} is left out: {why}\n{frame}", end="", file=sys.stderr, flush=True)


# torch loads the libraries, which do not use Python's ABI: one wheel serves every version of both.
if __name__ == "__main__":
    require_setuptools(setuptools.__version__)
    require_sources(CPP.sources + CUDA.sources)
    setuptools.setup(
        ext_modules=[CPP, CUDA],
        cmdclass={"build_ext": BuildExtensions},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )

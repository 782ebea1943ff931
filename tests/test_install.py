"""Builds of the package, as pip makes them, from copies of the checkout. They leave out the kernels or use a stand-in for
the compiler.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[1]
NEEDS_COMPILER = pytest.mark.skipif(shutil.which("c++") is None, reason="c++ was not found")
pytestmark = pytest.mark.skipif(
    not (ROOT / "betavae_fast").exists(),
    reason="this checkout has no package; the installed one is tested",
)

# Each name is read differently by the shell, by make, by ninja, in a list of headers, or in another encoding.
AWKWARD = [
    "a b",
    "it's",
    'a"b',
    "a$b",
    "${HOME}",
    "$(exit)",
    "(a)",
    "a&b",
    "a;b",
    "a|b",
    "`a`",
    "ü é",
    "a:b",
    "#a",
    "a\\b",
]
AWKWARD += ["*", "a<b>", "%a", "error", "-a", "~", "a,b", "a=b", "!a"]


@pytest.fixture
def build() -> SimpleNamespace:
    """The functions and classes of setup.py."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "setup.py"), run_name="setup"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the files that a build needs, together with leftovers of an earlier build."""
    folder = tmp_path / "it's a checkout (ü) & more"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "_build.txt")
    for name in ("betavae_fast", "csrc", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for left in ("_C.so", "_C_cuda.so", "_build.txt"):
        (folder / "betavae_fast" / left).write_text("of an earlier build")
    return folder


def setup_py(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=folder,
        env=os.environ | {"BETAVAE_FAST_CPP": "0", "BETAVAE_FAST_CUDA": "0"} | environment,
        capture_output=True,
        text=True,
    )


def sdist(checkout: Path) -> Path:
    """Build an sdist from the checkout and unpack it."""
    done = setup_py(checkout, "sdist")
    assert done.returncode == 0, done.stderr
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(checkout.parent, filter="data")
    return checkout.parent / archive.name.removesuffix(".tar.gz")


def sizes_in_wheel(folder: Path) -> dict[str, int]:
    done = setup_py(folder, "bdist_wheel")
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        return {
            file.filename: file.file_size for file in packed.infolist() if ".dist-info/" not in file.filename
        }


def test_the_sdist_holds_what_building_needs_and_nothing_that_was_built(checkout: Path) -> None:
    unpacked = sdist(checkout)
    packed = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    wanted = {"setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert wanted <= packed
    assert not [name for name in packed if name.endswith((".so", "_build.txt")) or name.startswith("tests")]


def test_a_wheel_of_the_sdist_holds_the_files_of_a_wheel_of_the_checkout(checkout: Path) -> None:
    unpacked = sdist(checkout)
    of_checkout, of_sdist = sizes_in_wheel(checkout), sizes_in_wheel(unpacked)
    assert of_sdist == of_checkout
    assert {"betavae_fast/py.typed", "betavae_fast/_build.txt"} <= of_sdist.keys()
    assert any(name.endswith(".jinja") for name in of_sdist)
    assert not [name for name in of_sdist if name.endswith(".so")]


def test_a_library_left_out_of_a_wheel_stays_in_the_checkout(checkout: Path) -> None:
    sizes_in_wheel(checkout)
    assert (checkout / "betavae_fast" / "_C_cuda.so").read_text() == "of an earlier build"


def test_a_library_left_out_in_place_is_removed(checkout: Path) -> None:
    assert setup_py(checkout, "build_ext", "--inplace").returncode == 0
    assert not list((checkout / "betavae_fast").glob("*.so"))
    assert (checkout / "betavae_fast" / "_build.txt").read_text() == (
        "_C: BETAVAE_FAST_CPP=0 at install time\n_C_cuda: BETAVAE_FAST_CUDA=0 at install time\n"
    )


@pytest.mark.parametrize("command", ["sdist", "bdist_wheel", "build_ext", "egg_info"])
def test_a_tree_without_sources_is_an_error(checkout: Path, command: str) -> None:
    shutil.rmtree(checkout / "csrc")
    done = setup_py(checkout, command)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"betavae_fast: csrc/\S+ is missing or empty: .*", line)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("\n")], ids=["missing", "empty"])
def test_a_tree_that_lacks_any_one_source_or_header_is_an_error(
    build: SimpleNamespace, checkout: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(checkout)
    build.require_sources(build.CPP.sources + build.CUDA.sources)
    for path in sorted(path for path in Path("csrc").rglob("*") if path.is_file()):
        text = path.read_text()
        spoil(path)
        with pytest.raises(SystemExit, match=f"betavae_fast: {path} is missing or empty"):
            build.require_sources(build.CPP.sources + build.CUDA.sources)
        path.write_text(text)


@pytest.mark.parametrize("version", ["65.5.0", "76.1.0", "44.0.0.post20200106"])
def test_an_older_setuptools_is_refused_in_one_line(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setuptools, "__version__", version)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("setup.py", run_name="__main__")
    assert ended.value.code == (
        f'betavae_fast is built by setuptools >= 77, found {version}: python -m pip install "setuptools>=77"'
    )


def test_the_oldest_setuptools_is_the_same_everywhere(build: SimpleNamespace) -> None:
    patterns = (
        "*.md",
        "docs/**/*.md",
        "examples/**/*.py",
        "examples/**/*.md",
        "Makefile",
        "pyproject.toml",
        ".github/**/*.yml",
        ".ci/*",
    )
    files = [path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()]
    said = {
        (path.name, name)
        for path in files
        for name in re.findall(r"(?:install|requires) .*?(setuptools[^\s\"',]*)", path.read_text("utf-8"))
    }
    wanted = f"setuptools>={build.SETUPTOOLS}"
    assert said == {(name, wanted) for name in ("install.md", "Makefile", "pyproject.toml")}


@NEEDS_COMPILER
@pytest.mark.parametrize("name", AWKWARD)
def test_paths_are_taken_as_they_are(
    build: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The compiler, the headers and the libraries lie in folders of this name, and the source tree is one."""
    folder = tmp_path / name
    (folder / "csrc").mkdir(parents=True)
    (folder / "build").mkdir()
    compiler = folder / "c++"
    compiler.symlink_to(shutil.which("c++") or "")
    (folder / "outside.h").write_text("int one();\n")
    (folder / "csrc" / "two.h").write_text("#include <outside.h>\ninline int two() { return 2 * one(); }\n")
    (folder / "csrc" / "two.cpp").write_text('#include "two.h"\nint answer() { return two(); }\n')
    monkeypatch.chdir(folder)
    one = ["-shared", "-fPIC", "-xc++", "-", "-o", str(folder / "libone.so")]
    subprocess.run([compiler, *one], input="int one() { return 1; }", text=True, check=True)

    def library() -> Path:
        ninja = build.NinjaFile(Path("build"))
        ninja.compile([str(compiler), "-fPIC", "-isystem", str(folder)], "csrc/two.cpp", "two")
        return ninja.link([str(compiler)], [f"-L{folder}", "-lone"])

    first = library().read_bytes()
    assert library().read_bytes() == first
    built = Path("build/two.o").stat().st_mtime_ns
    library()
    assert Path("build/two.o").stat().st_mtime_ns == built, "compiled again, though nothing has changed"
    Path("csrc/two.h").write_text("inline int two() { return 2; }\n")
    assert library().read_bytes() != first, "not compiled again, though a header has changed"


@NEEDS_COMPILER
def test_the_compilers_first_error_is_what_is_told(
    build: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "fatal: error: c++"
    (folder / "build").mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "c++").symlink_to(shutil.which("c++") or "")
    compiler = [str(folder / "c++"), "-fPIC", "-Wall"]
    (folder / "wrong.cpp").write_text("static int error;\nint a = b;\nint c = d;\n")
    (folder / "right.cpp").write_text("int a;\n")

    def said(source: str, *libraries: str) -> str:
        ninja = build.NinjaFile(Path("build"))
        ninja.compile(compiler, source, "object")
        with pytest.raises(build.CompilerError) as failed:
            ninja.link(compiler, list(libraries))
        return str(failed.value)

    assert re.fullmatch(r"the compiler failed: wrong\.cpp:2:\d+: error: .*\bb\b.*", said("wrong.cpp"))
    assert re.fullmatch(r"the compiler failed: .*\bld\b.*absent.*", said("right.cpp", "-labsent"))


def stand_in(folder: Path, behaviour: str) -> str:
    """Write a compiler that only does ``behaviour`` and touches its output."""
    path = folder / "a compiler"
    path.write_text(f'{behaviour}\nwhile [ $# -gt 1 ]; do [ "$1" = -o ] && : >"$2"; shift; done\n')
    path.chmod(0o755)
    return str(path)


FAILS = """#!/bin/sh
case "$*" in *" -c csrc/cpu/latent.cpp "*)
    echo "csrc/cpu/latent.cpp:3:1: warning: unused variable 'error'" >&2
    echo "csrc/cpu/latent.cpp:9:5: error: 'x' was not declared in this scope" >&2
    echo "csrc/cpu/latent.cpp:9:7: error: expected ';'" >&2
    exit 1
esac"""
FIRST_ERROR = "the compiler failed: csrc/cpu/latent.cpp:9:5: error: 'x' was not declared in this scope"


def test_a_failed_compilation_is_told_when_building_and_by_info(checkout: Path) -> None:
    compiler = stand_in(checkout.parent, FAILS)
    done = setup_py(checkout, "build_ext", "--inplace", BETAVAE_FAST_CPP="", CXX=compiler)
    assert done.returncode == 0, done.stderr
    frame, line, end, *others = done.stderr.splitlines()
    assert frame == end == "*" * 80 and line == f"betavae_fast._C is left out: {FIRST_ERROR}"
    assert others == ["betavae_fast._C_cuda is left out: BETAVAE_FAST_CUDA=0 at install time"]
    info = subprocess.run(
        [sys.executable, "-m", "betavae_fast", "info"],
        cwd=checkout,
        env=os.environ | {"COLUMNS": "400"},
        capture_output=True,
        text=True,
    )
    assert FIRST_ERROR in info.stdout, info.stdout + info.stderr


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        (FAILS, FIRST_ERROR),
        ("no program", "[Errno 8] Exec format error: '{cxx}'"),
        (None, "{cxx} was not found at install time"),
    ],
    ids=["fails", "damaged", "absent"],
)
def test_a_library_that_has_to_be_built_ends_the_build(
    checkout: Path, compiler: str | None, why: str
) -> None:
    cxx = "/absent/c++" if compiler is None else stand_in(checkout.parent, compiler)
    done = setup_py(checkout, "build_ext", BETAVAE_FAST_CPP="1", CXX=cxx)
    assert done.returncode == 1
    assert done.stderr == f"betavae_fast._C cannot be built, and BETAVAE_FAST_CPP=1: {why.format(cxx=cxx)}\n"


@pytest.mark.parametrize(("machine", "sets"), [("x86_64", 3), ("arm64", 1), ("aarch64", 1)])
@pytest.mark.parametrize("knows", [True, False])
def test_flags_are_those_of_the_machine_and_of_the_compiler(
    build: SimpleNamespace,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    sets: int,
    knows: bool,
) -> None:
    monkeypatch.chdir(checkout)
    monkeypatch.setattr("platform.machine", lambda: machine)
    behaviour = "#!/bin/sh" if knows else '#!/bin/sh\ncase " $* " in *" -fsched"* | *" -Wno-"*) exit 1;; esac'
    monkeypatch.setenv("CXX", stand_in(checkout.parent, behaviour))
    folder = Path("build/betavae_fast._C")
    folder.mkdir(parents=True)
    assert build.build_cpp(folder).exists()
    commands = (folder / "build.ninja").read_text()
    kernels, convolutions = sets * len(build.OPS), 2 if sets == 3 else 0
    assert commands.count("-DBVF_ISA=baseline") == len(build.OPS)
    assert commands.count("-DBVF_ISA=") == kernels + convolutions
    assert commands.count("-mavx512bf16") == convolutions and commands.count("-mamx-bf16") == convolutions / 2
    assert commands.count("-mavx2") == (len(build.OPS) if sets == 3 else 0)
    assert commands.count("-mavx512f") == commands.count("-mavx2") + convolutions
    assert (
        commands.count("-fschedule-insns") == commands.count("-fsched-pressure") == (kernels if knows else 0)
    )


@pytest.mark.parametrize(
    ("knows", "wish", "flags"),
    [
        ("sm_80 sm_90", None, ["80", "90", "90+"]),
        ("sm_80 sm_90 sm_100 sm_110 sm_120", None, ["80", "90", "90+", "100", "120"]),
        ("sm_90 sm_100 sm_120 sm_140", None, ["90", "90+", "100", "120"]),
        ("sm_80 sm_90", "8.6 9.0a+PTX", ["86", "90a", "90a+"]),
    ],
)
def test_cuda_is_compiled_for_the_architectures_that_nvcc_knows(
    build: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    knows: str,
    wish: str | None,
    flags: list[str],
) -> None:
    if wish is None:
        monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    else:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wish)
    wanted = [
        f"-gencode=arch=compute_{flag.rstrip('+')},code={'compute' if '+' in flag else 'sm'}_{flag.rstrip('+')}"
        for flag in flags
    ]
    assert build.gencode_flags(stand_in(tmp_path, f"#!/bin/sh\nprintf '%s\\n' {knows}")) == wanted


def test_cuda_is_left_out_if_torch_has_none_unless_asked_for(
    build: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of nvcc is run before torch is looked at, so that CPU users do not wait for kernels that cannot run."""
    monkeypatch.setitem(build.build_cuda.__globals__, "torch_paths", lambda: (tmp_path, tmp_path))

    def find_nvcc() -> str:
        raise build.UnavailableError("nvcc was looked for")

    monkeypatch.setitem(build.build_cuda.__globals__, "find_nvcc", find_nvcc)
    monkeypatch.delenv("BETAVAE_FAST_CUDA", raising=False)
    with pytest.raises(build.UnavailableError, match="torch was installed without CUDA; BETAVAE_FAST_CUDA=1"):
        build.build_cuda(tmp_path)
    monkeypatch.setenv("BETAVAE_FAST_CUDA", "1")
    with pytest.raises(build.UnavailableError, match="nvcc was looked for"):
        build.build_cuda(tmp_path)
    monkeypatch.delenv("BETAVAE_FAST_CUDA")
    (tmp_path / "libtorch_cuda.so").touch()
    with pytest.raises(build.UnavailableError, match="nvcc was looked for"):
        build.build_cuda(tmp_path)


@pytest.mark.parametrize(
    ("platform", "flags"), [("darwin", ["-shared", "-undefined", "dynamic_lookup"]), ("linux", ["-shared"])]
)
def test_the_linker_of_apple_is_told_to_allow_undefined_names(
    platform: str, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["SHARED"] == flags


def test_the_workflow_is_well_formed_and_calls_targets_that_exist() -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    called = [name for step in steps for name in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"test", "lint", "test-dist"} <= set(called) <= set(targets)

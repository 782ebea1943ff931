"""The choice of a backend: no silent fallback, reasons for missing backends, nothing loaded before it is used."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import betavae_fast
from betavae_fast import (
    bernoulli_nll,
    gaussian_kl,
    gaussian_nll,
    laplace_nll,
    reparameterize,
    reparameterize_kl,
)
from betavae_fast.ops import backends
from betavae_fast.ops.backends import backend_table, missing
from betavae_fast.ops.operators import BACKENDS, op_names
from tests.backends import ROOT, available_backends, fresh_process

PACKAGE = Path(betavae_fast.__file__).parent
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU makes this backend available")
NOT_INTERPRETED = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1 makes this backend available"
)
CALLS = {
    "reparameterize_kl": lambda x, **options: reparameterize_kl(x, x, **options),
    "reparameterize": lambda x, **options: reparameterize(x, x, **options),
    "gaussian_kl": lambda x, **options: gaussian_kl(x, x, **options),
    "bernoulli_nll": lambda x, **options: bernoulli_nll(x, x, **options),
    "gaussian_nll": lambda x, **options: gaussian_nll(x, x, **options),
    "laplace_nll": lambda x, **options: laplace_nll(x, x, **options),
}


@pytest.fixture
def without_libraries(tmp_path: Path) -> Path:
    """A folder with a copy of the package as it would be without a compiler."""
    ignore = shutil.ignore_patterns("*.so", "_build.txt", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "betavae_fast", ignore=ignore)
    return tmp_path


def run_in(folder: Path, code: str) -> str:
    process = fresh_process("-c", code, PYTHONPATH=str(folder), TRITON_INTERPRET=None, directory=folder)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_importing_the_package_loads_neither_triton_nor_a_compiled_library() -> None:
    """The import must stay quick, and work even if Triton or the library is broken."""
    code = (
        "import sys, pathlib, betavae_fast; maps = pathlib.Path('/proc/self/maps');"
        "print('triton' in sys.modules, maps.exists() and '_C' in maps.read_text().replace('torch/_C', ''))"
    )
    loaded = "import sys, pathlib, torch; print([m for m in sys.modules if m.partition('.')[0] == 'triton'])"
    assert fresh_process("-c", loaded).stdout.strip() == "[]", "torch itself imports Triton here"
    assert fresh_process("-c", code).stdout.split()[0] == "False", "Triton was imported"
    maps = fresh_process(
        "-c",
        "import pathlib, sys, betavae_fast; maps = pathlib.Path('/proc/self/maps');"
        "print([l for l in maps.read_text().split() if 'betavae_fast' in l] if maps.exists() else [])",
    )
    assert maps.stdout.strip() == "[]", "a compiled library was loaded"


@pytest.mark.parametrize("backend", available_backends("cpp"))
def test_the_library_is_loaded_by_the_first_call(backend: str) -> None:
    """This shows that the test above can detect a loaded library."""
    code = (
        "import pathlib, torch, betavae_fast; betavae_fast.gaussian_kl(torch.ones(2, 2), torch.ones(2, 2));"
        "maps = pathlib.Path('/proc/self/maps');"
        "print(not maps.exists() or 'betavae_fast/_C.so' in maps.read_text())"
    )
    assert fresh_process("-c", code).stdout.strip() == "True"


@pytest.mark.parametrize("backend", available_backends("cpp"))
def test_auto_is_cpp_for_cpu_tensors(backend: str) -> None:
    """The bits show it, because the KLs of the two backends differ somewhere among many values."""
    mu, logvar = torch.randn(4000, 7), torch.randn(4000, 7)
    by = {b: gaussian_kl(mu, logvar, reduction="none", backend=b) for b in ("auto", "cpp", "reference")}
    assert torch.equal(by["auto"], by["cpp"]) and not torch.equal(by["cpp"], by["reference"])


USES = """
import warnings
import torch
import betavae_fast as b
from betavae_fast.ops.backends import backend_table, missing

def use_everything(backend):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = torch.linspace(-3, 3, 3000, dtype=dtype).view(500, 6).requires_grad_()
        kinds = (
            *b.reparameterize_kl(x, x, seed=1, backend=backend),
            b.reparameterize(x, x, backend=backend),
            b.gaussian_kl(x, x, backend=backend),
            b.bernoulli_nll(x, x.detach() > 0, backend=backend),
            *b.kl_decomposition(x, x, x, dataset_size=1000, backend=backend),
        )
        sum(y.sum() for y in kinds).backward()

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    use_everything("eager")
    chosen = len(caught)
    compiled = torch.compile(lambda x: b.gaussian_kl(x, x).sum(), fullgraph=True, backend="aot_eager")
    for rows in (3, 4):
        compiled(torch.ones(rows, 2))
    for _ in range(3):
        use_everything("auto")
found = [str(w.message) for w in caught if "betavae_fast" in str(w.message)]
print(b.__file__)
print(chosen, len(found), found[0].endswith(missing("cpp")))
print(found[0])
x = torch.linspace(-3, 3, 3000).view(500, 6)
kinds = [b.reparameterize_kl(x, x, seed=1, backend=k) for k in ("auto", "eager")]
print(all(map(torch.equal, *kinds)))
print([(row.backend, row.available) for row in backend_table()][:3])
try:
    b.gaussian_kl(x, x, backend="cpp")
except RuntimeError as error:
    print(error)
"""


def test_without_the_library_auto_is_plain_torch_and_says_so_once(without_libraries: Path) -> None:
    """Without a compiler the package still runs, and says once a process what is missing and how to get it. The test
    repeats the call because Python's own filters may show a warning again, and torch.compile traces again.
    """
    where, count, warning, equal, table, error = run_in(without_libraries, USES).splitlines()
    assert where.startswith(str(without_libraries)) and equal == "True"
    assert count == "0 1 True", warning
    assert warning.startswith('betavae_fast computes cpu tensors in plain torch (backend="eager")')
    assert f"{without_libraries} is a checkout from which nothing was installed" in warning
    assert table == "[('reference', True), ('eager', True), ('cpp', False)]"
    for part in ('gaussian_kl: backend="cpp" is not available', "was not built", "compiler"):
        assert part in error


@pytest.mark.parametrize(
    ("note", "remedy"),
    [
        (
            "the compiler failed: latent.cpp:9:5: error: 'x' was not declared",
            "Mend that error and reinstall.",
        ),
        ("BETAVAE_FAST_CPP=0 at install time", "Unset that variable and reinstall."),
        ("c++ or g++ was not found at install time", "Install a C++17 compiler and reinstall."),
        (
            "torch was installed without CUDA; BETAVAE_FAST_CUDA=1 builds the kernels for another machine",
            "Install a torch with CUDA and reinstall.",
        ),
    ],
    ids=["failed", "left out", "no compiler", "no CUDA"],
)
def test_the_remedy_fits_what_kept_the_library_from_being_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str, remedy: str
) -> None:
    """If the compiler failed, it is installed, so installing one would change nothing."""
    (tmp_path / "_build.txt").write_text(f"_C_cuda: another reason\n_C: {note}\n")
    monkeypatch.setattr(backends, "_BUILD_LOG", tmp_path / "_build.txt")
    monkeypatch.setattr(backends, "CPP_LIBRARY", tmp_path / "_C.so")
    assert missing.__wrapped__("cpp") == f"the C++ extension was not built ({note}). {remedy}"


@pytest.fixture
def fresh_choices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Choose anew, as in a process without earlier warnings."""
    monkeypatch.setattr(backends, "_warned_of", set())
    backends._choose.cache_clear()
    yield
    backends._choose.cache_clear()


@pytest.mark.parametrize(
    ("device", "dtype", "reasons"),
    [
        ("cpu", torch.float64, ("no cpp.",)),
        ("cuda", torch.bfloat16, ("no cuda.", "no triton.")),
        ("cuda", torch.float64, ()),
        ("mps", torch.float32, ()),
        ("xpu", torch.float32, ()),
    ],
    ids=str,
)
def test_where_kernels_are_missing_or_none_exist_auto_is_plain_torch(
    device: str,
    dtype: torch.dtype,
    reasons: tuple[str, ...],
    fresh_choices: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is a warning only if kernels would have been faster."""
    monkeypatch.setattr(backends, "missing", lambda b: "" if b in ("reference", "eager") else f"no {b}.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert backends.choose("auto", device, dtype) == "eager"
        assert backends.choose("auto", device, torch.float16) == "eager"
    if device == "cuda" and not reasons:
        reasons = ("no cuda.", "no triton.")  # for float16
    assert [str(w.message).partition(": ")[2] for w in caught] == ([" ".join(reasons)] if reasons else [])


def test_a_backend_that_is_there_is_preferred_without_a_word(
    fresh_choices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "missing", lambda b: "no." if b == "cuda" else "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose("auto", "cuda", torch.float32) == "triton"
        assert backends.choose("auto", "cuda", torch.float64) == "eager"
        assert backends.choose("auto", "cpu", torch.float64) == "cpp"


def test_a_warning_that_is_an_error_is_raised_once(
    fresh_choices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "missing", lambda b: "no." if b == "cpp" else "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="plain torch"):
            backends.choose("auto", "cpu", torch.float32)
        assert backends.choose("auto", "cpu", torch.float32) == "eager"


def test_a_library_that_does_not_load_is_a_reason_not_a_crash(without_libraries: Path) -> None:
    """The library may be built for another torch, or cut short by a full disk."""
    (without_libraries / "betavae_fast" / "_C.so").write_bytes(b"\x7fELF, no more")
    code = (
        "import torch, betavae_fast as b; x = torch.ones(2, 2)\n"
        "print(float(b.gaussian_kl(x, x, reduction='sum')))\n"
        "try: b.gaussian_kl(x, x, backend='cpp')\n"
        "except RuntimeError as error: print(str(error).replace(chr(10), ' '))\n"
    )
    value, error = run_in(without_libraries, code).splitlines()
    assert float(value) == pytest.approx(4 * (2.718281828 - 1) / 2)
    assert (
        'backend="cpp" is not available' in error and "does not load" in error and torch.__version__ in error
    )


@pytest.fixture
def cuda_that_cannot_run(fresh_choices: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend that torch and Triton can use the GPU and the CUDA library loads, but the driver is too old for the
    library.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(backends, "_load_library", lambda *names: "")
    monkeypatch.setattr(backends, "_cuda_error", lambda library: "CUDA driver version is insufficient")
    missing.cache_clear()
    yield
    missing.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.filterwarnings("ignore:hidden layers and the parts of the KL run in plain torch")
def test_kernels_that_the_gpu_cannot_run_are_not_chosen_and_the_table_says_why(
    cuda_that_cannot_run: None,
) -> None:
    """Loading the library does not show whether the driver and the compiled architectures fit."""
    assert backends.choose("auto", "cuda", torch.float32) == "triton"
    with pytest.raises(RuntimeError, match=r"Some GPU \(CUDA driver version is insufficient\)"):
        backends.choose("cuda", "cuda", torch.float32)
    reasons = [row.reason for row in backend_table() if row.backend == "cuda"]
    assert all("driver version is insufficient" in reason for reason in reasons)


@NO_GPU
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc was not found")
def test_the_probe_of_the_cuda_library_tells_without_a_driver_what_is_missing(tmp_path: Path) -> None:
    """The probe is compiled alone, because the whole library needs a torch built with CUDA."""
    library, source = tmp_path / "probe.so", ROOT / "csrc" / "cuda" / "probe.cu"
    subprocess.run(["nvcc", "-shared", "-Xcompiler=-fPIC", "-o", library, source], check=True)
    assert re.search("driver version is insufficient|no CUDA-capable device", backends._cuda_error(library))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "backend, because",
    [
        pytest.param("cuda", "no CUDA device", marks=NO_GPU),
        pytest.param("triton", "TRITON_INTERPRET=1", marks=[NO_GPU, NOT_INTERPRETED]),
    ],
)
def test_an_explicit_choice_never_falls_back(call: str, backend: str, because: str) -> None:
    """The error says which backend is missing, why, and how to get it."""
    with pytest.raises(RuntimeError, match="is not available") as error:
        CALLS[call](torch.zeros(2, 2), backend=backend)
    text = str(error.value)
    assert text.startswith(f'{call}: backend="{backend}" is not available: ')
    assert because in text or "is not installed" in text


@pytest.mark.parametrize("backend", available_backends("cpp"))
def test_a_backend_refuses_tensors_of_another_device(backend: str) -> None:
    with pytest.raises(ValueError, match=r'backend="cpp" runs on cpu tensors, got a meta tensor'):
        gaussian_kl(torch.zeros(2, 2, device="meta"), torch.zeros(2, 2, device="meta"), backend=backend)


def test_the_table_names_every_backend_and_a_reason_for_each_missing_one() -> None:
    table = backend_table()
    assert [row.backend for row in table] == list(BACKENDS)
    for row in table:
        assert row.available == (not row.reason) == (not missing(row.backend))
        assert row.available or row.reason.endswith("."), "a reason is a sentence"
    assert table[0].available and table[1].available, "the reference and plain torch need nothing"


def test_setup_compiles_every_op() -> None:
    """setup.py cannot ask the package that it builds."""
    listed = re.search(r"^OPS = (\{.*\})$", (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert listed and tuple(ast.literal_eval(listed[1])) == op_names()


@pytest.mark.parametrize("backend", available_backends("cpp"))
def test_an_unknown_instruction_set_is_not_an_illegal_instruction(backend: str) -> None:
    """If the CPU lacks the requested instruction set or there is none of this name, the library chooses one that runs."""
    code = (
        "import torch, betavae_fast as b; from betavae_fast.ops.backends import cpu_capability;"
        "x = torch.ones(64, 8); print(cpu_capability(), float(b.gaussian_kl(x, x, reduction='sum')))"
    )
    known = ("baseline", "avx2", "avx512", "avx512_bf16", "amx")
    for asked in ("avx512", "AVX2", "", "nonsense"):
        process = fresh_process("-c", code, BETAVAE_FAST_CPU_CAPABILITY=asked)
        chosen, value = process.stdout.split()
        assert process.returncode == 0 and chosen in known, process.stderr
        assert float(value) == pytest.approx(512 * 1.718281828 / 2, rel=1e-6)


def test_a_gpu_on_which_triton_fails_is_named_once_and_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: torch.Tensor) -> None:
        raise RuntimeError("Failed to find C compiler")

    loaded: list[str] = []

    def load(name: str) -> SimpleNamespace:
        loaded.append(name.rpartition(".")[2])
        return SimpleNamespace(bias_relu_=fail)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(backends.importlib, "import_module", load)
    backends.triton_serves.cache_clear()
    device = torch.device("cpu")
    with pytest.warns(UserWarning, match="Triton fails there .Failed to find C compiler"):
        assert not backends.triton_serves(device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not backends.triton_serves(device)
    assert loaded == ["bias_relu"]  # not the parts of the KL, whose kernels would replace plain torch
    backends.triton_serves.cache_clear()

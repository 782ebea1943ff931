"""The compiled kernels, for GPUs that need not be present, compared with the committed budgets."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.roofline import kernels as roofline
from benchmarks.roofline import table

triton = pytest.importorskip("triton")
from benchmarks.machine_code.triton import (  # noqa: E402
    CAPABILITIES,
    FULL_WIDTH,
    VARIANTS,
    Assembly,
    assemble_all,
    budget_file,
    key,
)

pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
    pytest.mark.skipif(
        not triton.__version__.startswith("3.8."),
        reason=f"the budgets are for the compiler of Triton 3.8, but this is {triton.__version__}",
    ),
]

# The fused multiply-adds in the formulas of an element.
_FMA_OF_NORMAL = 7.5  # two normals share a radius (7, and 2 of its square root) and an angle (6)
_FMA_OF_GRADIENT = 9  # 7 in an exponential, 2 in a reciprocal
_FMA_OF_LOG1P = 8
_FMA_OF_SPREAD = {"sigma": 7, "half_expm1": 2, "half_excess": 1}
_FMA_OF_ELEMENT = {
    "likelihood": {
        "forward batchmean": _FMA_OF_GRADIENT + _FMA_OF_LOG1P + 1,
        "forward batchmean, gaussian": 1,
        "finish batchmean": _FMA_OF_GRADIENT,
    },
    "latent": {
        "sample (B, 128)": _FMA_OF_NORMAL + _FMA_OF_SPREAD["sigma"] + 1,
        "kl dim (B, 128)": sum(_FMA_OF_SPREAD.values()) + 1,
        "forward dim (B, 128)": _FMA_OF_NORMAL + sum(_FMA_OF_SPREAD.values()) + 2,
        "backward dim (B, 128)": _FMA_OF_NORMAL + _FMA_OF_SPREAD["sigma"] + _FMA_OF_SPREAD["half_expm1"] + 2,
    },
    "log_densities": {},
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("op", VARIANTS)
def test_budget(op: str, capability: int) -> None:
    budgets = json.loads(budget_file(op).read_text())
    assemblies, above = assemble_all(op, capability), []
    for (variant, name), found in assemblies.items():
        where = f"{variant}, {key(name, capability)}"
        assert found.stack == 0 and found.spills() == 0, f"{where}: {found.stack} bytes of stack"
        assert found.subroutines() == 0, f"{where}: calls subroutines"
        for figure, value in found.figures().items():
            budget = budgets[variant][key(name, capability)][figure]
            if value > budget:
                above.append(f"{where}: {value} {figure}, budget {budget}")
        if not found.fused:
            _check_fusion(found, where)
        if (
            (op, name) != ("log_densities", "bfloat16")
            and variant in roofline.TRITON[op]
            and capability < 100
        ):
            row, kernel = roofline.of_triton(op, variant, name, capability, found)
            assert not table.slower({row: kernel})
        if variant in FULL_WIDTH:
            _check_width(found.opcodes("LDG") + found.opcodes("STG"), variant, where)
    assert not above, "\n".join(above)
    for variant, of_element in _FMA_OF_ELEMENT[op].items() if capability == 90 else ():
        found = assemblies[variant, "float32"]
        assert len(found.opcodes("FFMA")) == of_element * found.elements, variant


def _check_fusion(found: Assembly, where: str) -> None:
    """Check that nothing is fused that the source does not fuse."""
    packed = len(found.opcodes("FFMA2"))
    scalar = len(found.opcodes("FFMA")) - packed
    assert scalar == len(re.findall(r"\bfma\.rn\.f32\b", found.ptx)), f"{where}: {scalar} FFMA"
    # The assembler of Triton 3.6 fuses a packed product with the sum that uses it, whatever its options. On sm_100 this
    # changes w of spread by an ulp, and nothing of the noise.
    if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 8):
        assert packed == found.ptx.count("fma.rn.f32x2"), f"{where}: {packed} FFMA2"


def _check_width(opcodes: list[str], variant: str, where: str) -> None:
    """Check that everything moves 16 bytes at a time, except the seed, the program's gradient of each column or row, and
    its sums.
    """
    wide = [o for o in opcodes if o.endswith(".128")]
    narrow = [o for o in opcodes if not o.endswith(".128")]
    assert len(wide) >= 2, f"{where}: {opcodes}"
    seeds = [o for o in narrow if o.endswith(".64")]
    stores = [o for o in narrow if o.startswith("STG")]
    gradients = [o for o in narrow if o.startswith("LDG") and not o.endswith(".64")]
    shared = variant.startswith(("backward", "finish")) and "none" not in variant
    assert len(seeds) <= 2 and len(stores) <= 1 and len(gradients) <= 8 * shared, f"{where}: {opcodes}"


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_square_root_is_the_assemblers_own(capability: int, tmp_path: Path) -> None:
    """noise._sqrt writes out the operations of sqrt.rn for an ordinary number, and so has its bits."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    assembler = tools / (
        "ptxas-blackwell" if capability >= 100 and (tools / "ptxas-blackwell").exists() else "ptxas"
    )
    (tmp_path / "root.ptx").write_text(
        f""".version 8.7
        .target sm_{capability}
        .address_size 64
        .visible .entry root(.param .u64 p) {{
          .reg .f32 %f<3>; .reg .b64 %r<3>;
          ld.param.u64 %r1, [p]; cvta.to.global.u64 %r2, %r1; ld.global.f32 %f1, [%r2];
          sqrt.rn.f32 %f2, %f1; st.global.f32 [%r2], %f2; ret;
        }}"""
    )
    cubin = tmp_path / "root.cubin"
    subprocess.run([assembler, f"-arch=sm_{capability}", tmp_path / "root.ptx", "-o", cubin], check=True)
    sass = subprocess.run(
        [tools / "cuobjdump", "-sass", cubin], capture_output=True, text=True, check=True
    ).stdout
    body = sass[: sass.index("EXIT")]
    x, y = re.search(r"MUFU\.RSQ (R\d+), (R\d+)", body).group(2, 1)
    # The slow branch is taken below 2⁻¹⁰¹ and for all but positive finite numbers.
    assert re.search(rf"IADD3 \w+, (?:PT, PT, )?{x}, -0xd000000, RZ", body) and "0x727fffff" in body
    s, half, error = (
        re.search(pattern, body)
        for pattern in (
            rf"FMUL\.FTZ (R\d+), {x}, {y} ;",
            rf"FMUL\.FTZ (R\d+), {y}, 0\.5 ;",
            rf"FFMA (R\d+), -(R\d+), \2, {x} ;",
        )
    )
    assert s and half and error and error[2] == s[1]
    assert re.search(rf"FFMA R\d+, {error[1]}, {half[1]}, {s[1]} ;", body)

"""The roofline's reading of machine code and its model, tested with made-up code and machines."""

import pytest

from benchmarks import RESULTS
from benchmarks.machine_code import sass
from benchmarks.pages import between
from benchmarks.roofline import model, table
from benchmarks.roofline.kernels import Row
from benchmarks.roofline.machines import A100, H100, MACHINES
from benchmarks.roofline.model import Kernel, predict, resident_threads


def listing(*texts):
    return [(16 * i, text) for i, text in enumerate(texts)]


LOOP = listing(
    "MOV R0, R1",
    "LDG.E.128 R4, [R2.64]",
    "@P0 BRA 0x50",
    "FADD R4, R4, 1",  # the longer path, and the one without a fused multiply-add
    "BRA 0x60",
    "FFMA R4, R4, R4, R4",
    "STG.E R4, [R2.64]",
    "@!P1 BRA 0x10",
    "EXIT",
)


def test_a_round_takes_the_way_with_the_arithmetic():
    assert sass.opcodes(sass.once_round(LOOP)) == ["LDG.E.128", "BRA", "FFMA", "STG.E", "BRA"]


def test_a_uniform_branch_is_conditional():
    code = [(address, text.replace("@P0 BRA", "BRA.U !UP0,")) for address, text in LOOP]
    assert len(sass.once_round(code)) == 5


@pytest.mark.parametrize(
    ("opcode", "pipe", "places"),
    [
        ("FFMA", "fma", 1),
        ("IMAD.WIDE.U32", "integer_multiply", 2),
        ("IMAD.MOV.U32", "integer_multiply", 1),
        ("LOP3.LUT", "alu", 1),
        ("I2FP.F32.S32", "alu", 1),
        ("I2F.S32", "xu", 1),
        ("MUFU.RSQ", "xu", 1),
        ("LDG.E.128", "lsu", 1),
        ("UIADD3", "other", 1),
    ],
)
def test_pipes(opcode, pipe, places):
    assert (model.pipe(opcode), model.places(opcode)) == (pipe, places)


def test_widths():
    opcodes = ["LDG.E.128", "LDG.E.128.CONSTANT", "LDG.E.64", "LDG.E", "LDG.E.U8", "STG.E.U16", "LDS.128"]
    assert model.accesses(opcodes) == {"LDG 1": 1, "LDG 16": 2, "LDG 4": 1, "LDG 8": 1, "STG 2": 1}


def kernel(registers=32, shared=0, **counts):
    code = listing(*(name for name, count in counts.items() for _ in range(count)))
    return Kernel(code, registers, shared, threads=256, elements=4, bytes=12)


def test_occupancy():
    assert resident_threads(kernel(registers=32), H100) == 2048
    assert resident_threads(kernel(registers=57), H100) == 1024  # 64 are allocated
    assert resident_threads(kernel(shared=99 << 10), H100) == 512  # 100 KB with the system's share


def test_the_longest_of_memory_and_pipes_limits():
    memory = 12 / (3.35e12 / (132 * 1.98e9))
    assert predict(kernel(FFMA=40), H100)[1:] == ("memory", 1.0)
    busy = predict(kernel(LOP3=400), H100)
    assert busy.limiter == "alu" and busy.fraction == pytest.approx(memory / (400 / 64 / 4))
    assert predict(kernel(FFMA=400), A100).limiter == "fma"
    assert predict(kernel(FFMA=300, LOP3=250), H100).limiter == "issue"
    assert predict(kernel(MUFU=200), H100).limiter == "xu"


@pytest.fixture(scope="module")
def committed():
    return table.read()


def test_the_committed_table_is_of_these_machines(committed):
    assert committed["machines"] == [machine._asdict() for machine in MACHINES]


def test_float32_is_bound_by_memory_on_sm_90(committed):
    """The latent op and the likelihood reach 85% of the bandwidth."""
    bound = [
        e
        for e in committed["kernels"]
        if e["op"] != "log_densities" and e["dtype"] == "float32" and e["arch"] == "sm_90"
    ]
    assert len(bound) == 28
    slow = [
        (e["backend"], e["kernel"], name)
        for e in bound
        for name, predicted in e["predicted"].items()
        if predicted["fraction"] < 0.85
    ]
    assert not slow


def test_a_slower_kernel_is_found():
    """The tests of the budgets, which compile the kernels, compare these with the table."""
    row = Row("latent", "cuda", "forward dim", "float32", "sm_90")
    assert table.slower({row: kernel(FFMA=100)}) == []
    (line,) = table.slower({row: kernel(FFMA=400)})
    assert line.startswith("cuda latent forward dim float32 sm_90 on H200: 0.836")
    (line,) = table.slower({row._replace(kernel="backward"): kernel(FFMA=1)})
    assert line.endswith("not in the table")


def test_the_page_and_the_results_list_the_table(committed):
    page = table.PAGE.read_text(encoding="utf-8")
    assert page == between(page, "table", table.on_page(committed))
    listed = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert f"| `roofline/roofline.json` | `{committed['command']}` |" in listed

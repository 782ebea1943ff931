"""Budgets of the compiled kernels. Regenerate with ``python -m benchmarks.machine_code.cuda``."""

import json
import re
import shutil

import pytest

from benchmarks.machine_code import cuda
from benchmarks.machine_code.sass import cuobjdump
from benchmarks.roofline import kernels as roofline
from benchmarks.roofline import table

pytestmark = pytest.mark.skipif(
    shutil.which("nvcc") is None or cuobjdump() is None, reason="nvcc or cuobjdump was not found"
)
ARCH = "sm_90"  # the other architectures are compiled when the budget is written


@pytest.fixture(scope="module")
def latent():
    return cuda.measure("latent", ARCH)


@pytest.fixture(scope="module")
def likelihood():
    return cuda.measure("likelihood", ARCH)


@pytest.fixture(scope="module")
def log_densities():
    return cuda.measure("log_densities", ARCH)


@pytest.fixture(params=cuda.SOURCES)
def op(request):
    """The measured figures, and the budget of every architecture."""
    budget = json.loads(cuda.budget_file(request.param).read_text())
    return request.getfixturevalue(request.param), budget


def _fmas(header: str, function: str) -> int:
    """Count fma_ in the source of ``function`` and, separately, in the functions it calls."""
    source = (cuda.ROOT / "csrc/include" / header).read_text()
    body = re.search(
        rf"BVF_INLINE \S+ {function}\(.*?\n}}|BVF_INLINE \S+ {function}\([^\n]*}}\n", source, re.DOTALL
    )[0]
    return len(re.findall(r"\b(?:fma_|multiply_add)\(", body))


def test_no_kernel_exceeds_its_budget(op):
    kernels, budget = op[0], op[1][ARCH]
    assert kernels.keys() == budget.keys(), "kernels were added or removed: write the budget again"
    grown = [
        f"{name}: {what} {kernels[name][what]}, budget {limits[what]}"
        for name, limits in budget.items()
        for what in ("registers", "instructions", "loop")
        if (limits[what] or 0) < (kernels[name][what] or 0)
    ]
    assert not grown, "\n".join(grown)


@pytest.mark.parametrize("of", cuda.SOURCES)
def test_no_kernel_is_predicted_slower(of):
    """The prediction is compared with the committed table of the roofline."""
    assert not table.slower(roofline.of_cuda(of, ARCH))


def test_every_arch_in_the_budget_has_no_stack_and_no_spills(op):
    kernels, budget = op
    assert tuple(budget) == cuda.ARCHS
    for name, figures in [*kernels.items(), *(item for arch in budget.values() for item in arch.items())]:
        assert figures["stack"] == figures["spills"] == figures["local_memory"] == 0, name


def test_vector_kernels_move_16_bytes_at_a_time(latent):
    vector = {name: f for name, f in latent.items() if re.match(r"(forward|backward)<\w+, true", name)}
    assert len(vector) == 3 * (7 + 7)
    for name, figures in vector.items():
        kl_only = name.startswith("forward") and ", true, false" in name
        # Reads mu, log sigma^2 and perhaps noise; writes z, or both gradients.
        assert figures["loads_16"] >= 2, name
        assert figures["stores_16"] >= (0 if kl_only else 1 if name.startswith("forward") else 2), name


def test_likelihood_kernels_move_a_group_at_a_time(likelihood):
    widths = {"float": 4, "BFloat16": 2, "Half": 2, "Byte": 1, "Flag": 1}
    pattern = r"(forward|backward)<Variant<(\w+), ThreadOperand<(\w+), true>, true>(?:, \(Reduction\)(\d))?"
    vector = {match: f for name, f in likelihood.items() if (match := re.match(pattern, name))}
    assert len(vector) == (4 + 5 + 5) * (3 + 1)
    for match, figures in vector.items():
        direction, decoded, target, reduction = match.groups()
        group = 16 // widths[decoded]
        target_bytes = group * widths.get(target, 0)
        # Reads decoded, the target and, in backward, a gradient of each element; writes the gradient and, in forward,
        # each element's NLL.
        grad_nll = 4 * group // 16 if direction == "backward" else 0
        assert figures["loads_16"] == 1 + target_bytes // 16 + grad_nll, match[0]
        assert figures["loads_8"] == (target_bytes == 8), match[0]
        assert figures["stores_16"] == 1 + (4 * group // 16 if reduction == "0" else 0), match[0]


def test_pairs_cost_what_was_counted(log_densities):
    """The test counts the instructions of a pair and dim, special functions and fused multiply-adds among them."""
    per_pair = {
        (kernel, loop["ffma"] / pairs): (loop["instructions"] / pairs, loop["mufu"] / pairs)
        for kernel, pairs in (
            ("joint", 32),
            ("marginals", 32),
            ("sweep<(Owner)0>", 16),
            ("sweep<(Owner)1>", 16),
        )
        for loop in log_densities[kernel]["inner_loops"]
    }
    for loop, (instructions, special) in {
        ("joint", 1.0): (4, 0),
        ("marginals", 1.0): (9, 1.125),  # includes the rescaling for a new maximum
        ("sweep<(Owner)0>", 2.0): (8, 0),
        ("sweep<(Owner)0>", 3.0): (12, 1),
        ("sweep<(Owner)1>", 2.0): (8, 0),
        ("sweep<(Owner)1>", 3.0): (12, 1),
    }.items():
        assert per_pair[loop][0] <= instructions and per_pair[loop][1] <= special, loop


def test_nothing_is_contracted_that_the_source_does_not_contract(latent):
    exponential = _fmas("exponential.h", "reduce_exponent") + _fmas("exponential.h", "exponential_excess")
    spread = exponential + _fmas("latent.h", "spread")
    kl, sample = (_fmas("latent.h", f) for f in ("kl", "sample"))
    pair = (
        _fmas("normal.h", "normal_pair") + _fmas("normal.h", "normal_radius") + _fmas("numerics.h", "sqrt_")
    )
    for dtype, group in (("float", 4), ("BFloat16", 8), ("Half", 8)):
        expected = group * (spread + kl + sample) + group // 2 * pair
        assert latent[f"forward<{dtype}, true, true, (Reduction)1>"]["ffma"] == expected, dtype

"""The CUDA backend on a CPU: its own kernels and operators under an emulator of CTAs (emulate.py).

test_gpu.py tests what the emulator cannot show: the device's arithmetic, launches, and races that neither order shows.
"""

import pytest
import torch

from benchmarks.cuts import cuda_cut
from betavae_fast.ops.backends import missing
from tests.ops.cuda import emulate, parity

pytestmark = pytest.mark.usefixtures("order")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
REDUCTIONS = ("none", "dim", "sample", "batchmean", "sum")


@pytest.fixture(scope="module", autouse=True)
def library(tmp_path_factory):
    missing("reference")
    try:
        path = emulate.build(tmp_path_factory.mktemp("emulated"), "latent")
    except LookupError as reason:
        pytest.skip(str(reason))
    torch.ops.load_library(str(path))
    return path


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((64, 10), torch.float32),  # rows share a tile
        ((300, 1), torch.bfloat16),
        ((9, 511), torch.float16),  # rows too long and too odd to share one
        ((5, 7), torch.float16),
        ((3, 1300), torch.float32),  # panels
        ((2, 4, 6, 6), torch.float32),
        ((2, 3, 5, 7), torch.bfloat16),
        *(((1, 1), dtype) for dtype in DTYPES),  # with one element, nothing evens out the luck of a rounding
    ],
    ids=str,
)
def test_parity_with_float64_in_every_layout(shape, dtype, reduction):
    parity.check_parity(torch.Size(shape), dtype, reduction, "cpu")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1025), (1, 1500), (1, 3000), (1, 9000), (2, 5000)], ids=str)
def test_few_rows_are_cut_into_broad_panels(shape, dtype, reduction):
    """The panels are broader or narrower than a CTA has threads for. No thread may write beyond its own elements."""
    parity.check_parity(torch.Size(shape), dtype, reduction, "cpu", layouts=("contiguous",))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("figures", parity.CUTS, ids=str)
@pytest.mark.parametrize("shape", [(700, 10), (61, 77), (30, 1300), (2, 3000)], ids=str)
def test_parity_however_a_launch_is_cut(library, shape, figures):
    """A CTA gets several tiles, the last of them cut short, or all tiles of a panel, or one."""
    with cuda_cut(library, figures):
        for reduction in REDUCTIONS:
            parity.check_parity(
                torch.Size(shape), torch.float32, reduction, "cpu", layouts=("contiguous", "packed")
            )


def test_the_order_of_sums_follows_the_cut(library):
    """Otherwise the test above would only repeat the default."""
    x = torch.randn(5000, 30, generator=torch.Generator().manual_seed(0))

    def kl(figures):
        with cuda_cut(library, figures):
            return torch.ops.betavae_fast.latent_kl_cuda(x, x, *parity.ANY, parity.REDUCTIONS["dim"])

    default, others = kl({}), [kl(figures) for figures in parity.CUTS]
    assert not any(torch.equal(default, other) for other in others[:2]) and torch.equal(default, others[2])
    assert torch.equal(kl({}), default)


@pytest.mark.parametrize("shape", [(33, 12), (3, 2, 2, 5)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_the_layout(shape, dtype):
    parity.check_bits_do_not_depend_on_layout(shape, dtype, "cpu")


def test_sums_over_many_ctas_are_those_of_one():
    x = torch.ones(40_000, 128).bfloat16()
    kl = torch.ops.betavae_fast.latent_kl_cuda(x, torch.zeros_like(x), *parity.ANY, parity.REDUCTIONS["dim"])
    assert torch.equal(kl, torch.full((128,), 0.5))


@pytest.mark.parametrize("shape", [(11, 10), (6, 7), (5, 700)], ids=str)
def test_shards_of_a_batch_give_the_bits_of_the_whole(shape):
    parity.check_shards(shape, "cpu")


@pytest.mark.parametrize(("rows", "cols"), [(512, 128), (999, 7)])
def test_noise_has_the_bits_of_the_contract(rows, cols):
    parity.check_noise_bits(rows, cols, "cpu")


def test_clamped_elements_have_no_gradient_and_nan_stays():
    parity.check_clamp("cpu")


def test_only_needed_gradients_are_computed():
    parity.check_only_needed_gradients("cpu")


def test_the_packed_gradient_has_the_bits_of_the_two():
    parity.check_packed_gradient("cpu")


def test_empty_batches():
    parity.check_empty("cpu")


def test_float64_is_refused_with_a_way_out():
    x = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        torch.ops.betavae_fast.latent_kl_cuda(x, x, *parity.ANY, 1)

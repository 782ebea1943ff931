"""The CUDA backend's likelihood on a CPU, like the latent op in test_emulated.py."""

import ctypes

import pytest
import torch

from benchmarks.cuts import cuda_cut
from betavae_fast.data import ByteImages
from betavae_fast.ops.backends import missing
from tests.ops.cuda import emulate
from tests.ops.cuda import likelihood_parity as parity

pytestmark = pytest.mark.usefixtures("order")


@pytest.fixture(scope="module", autouse=True)
def library(tmp_path_factory):
    missing("reference")
    try:
        path = emulate.build(tmp_path_factory.mktemp("emulated"), "likelihood")
    except LookupError as reason:
        pytest.skip(str(reason))
    torch.ops.load_library(str(path))
    return path


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("likelihood", parity.LIKELIHOODS)
@pytest.mark.parametrize("kind", parity.TARGETS)
@pytest.mark.parametrize("dtype", parity.DTYPES, ids=str)
def test_parity_with_float64_in_every_layout(dtype, kind, likelihood):
    for reduction in parity.NLL_REDUCTIONS:
        parity.check_parity((3, 2, 4, 6), dtype, kind, likelihood, reduction, "cpu")


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("kind", parity.TARGETS)
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 64), (1, 3000), (5, 7), (300, 1), (2, 1300), (70, 12), (7,), (2, 3, 5, 7)], ids=str
)
def test_parity_whatever_the_shape(shape, kind):
    for dtype, reduction in ((torch.float32, "none"), (torch.bfloat16, "sample"), (torch.float32, "sum")):
        parity.check_parity(shape, dtype, kind, "bernoulli", reduction, "cpu")


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("tiles", [1, 3, 1 << 20])
@pytest.mark.parametrize("shape", [(700, 10), (30, 1300), (40, 3, 5, 7)], ids=str)
def test_parity_however_a_launch_is_cut(library, shape, tiles):
    with cuda_cut(library, {"enough_ctas": 1, "most_tiles": tiles}):
        for reduction in parity.NLL_REDUCTIONS:
            parity.check_parity(shape, torch.float32, "uint8", "bernoulli", reduction, "cpu")


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_a_data_set_are_read_as_wide_as_a_decoder_leaves_its_own(library, channels):
    """Many pixels are read at once instead of one by one, because images and a decoder's output both have the channels of
    a pixel side by side.
    """
    look_ups = ctypes.CDLL(str(library)).emulated_look_ups
    look_ups.restype = ctypes.c_int64
    shape = (channels, 8, 8)
    pixels = torch.randint(0, 256, (5, *shape), generator=torch.Generator().manual_seed(0)).byte()
    images = ByteImages("random", pixels, shape).gather(torch.tensor([3, 1, 0]))
    decoded = torch.zeros(3, *shape).contiguous(memory_format=torch.channels_last)

    def counted(target):
        before = look_ups()
        _, grad = parity.ops().likelihood_forward_cuda(
            decoded, target, False, 0, 1.0, parity.REDUCTIONS["sum"], True
        )
        parity.ops().likelihood_finish_cuda(
            grad, 2 * torch.ones(()), decoded, target, False, 0, 1.0, parity.REDUCTIONS["sum"]
        )
        return look_ups() - before

    assert counted(images) == 0
    assert channels == 1 or counted(images.contiguous()) > 0, "no reads were counted"


def test_sums_over_many_ctas_are_those_of_one():
    x = torch.zeros(2500, 784).bfloat16()
    nll, grad = parity.ops().likelihood_forward_cuda(x, x, False, 2, 0.5, parity.REDUCTIONS["sum"], True)
    assert nll.item() == 0 and (grad == 0).all()


@pytest.mark.parametrize("shape", [(5, 16), (9, 3), (4, 3, 5, 7), (3, 1300)], ids=str)
@pytest.mark.parametrize("dtype", parity.DTYPES, ids=str)
def test_a_gradient_may_have_any_strides(shape, dtype):
    parity.check_grad_nll_of_any_strides(shape, dtype, "cpu")


@pytest.mark.parametrize("kind", parity.TARGETS)
@pytest.mark.parametrize("dtype", parity.DTYPES, ids=str)
def test_finish_writes_only_where_the_gradient_is_not_one(dtype, kind):
    parity.check_finish((3, 2, 4, 6), dtype, kind, "cpu")


def test_every_uint8_pixel_is_correctly_rounded():
    parity.check_pixels("cpu")


def test_extreme_values():
    parity.check_extremes("cpu")


def test_empty_batches():
    parity.check_empty("cpu")


def test_what_does_not_fit_is_refused_with_its_values():
    parity.check_refusals("cpu")

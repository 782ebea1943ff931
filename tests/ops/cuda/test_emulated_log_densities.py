"""The CUDA backend's log densities on a CPU, like the latent op in test_emulated.py."""

import pytest
import torch

from benchmarks.cuts import cuda_cut
from betavae_fast.ops.backends import missing
from betavae_fast.ops.reductions import ESTIMATORS
from tests.ops.cuda import emulate
from tests.ops.cuda import log_densities_parity as parity

pytestmark = pytest.mark.usefixtures("poisoned_memory", "order")


@pytest.fixture(scope="module", autouse=True)
def library(tmp_path_factory):
    missing("reference")
    try:
        path = emulate.build(tmp_path_factory.mktemp("emulated"), "log_densities")
    except LookupError as reason:
        pytest.skip(str(reason))
    torch.ops.load_library(str(path))
    return path


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        *(
            (size, torch.float32)
            for size in ((2, 1), (2, 33), (3, 2), (3, 7), (3, 16), (17, 1), (17, 7), (64, 16))
        ),
        *((size, torch.float32) for size in ((130, 2), (130, 33), (64, 200))),
        *((size, dtype) for size in ((17, 7), (64, 16)) for dtype in (torch.bfloat16, torch.float16)),
    ],
    ids=str,
)
def test_parity_with_a_brute_force(size, dtype, estimator):
    parity.check_parity(*size, dtype, estimator, "cpu")


@pytest.mark.parametrize("ctas", [1, 7, 1 << 20])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("size", [(130, 2), (290, 7)], ids=str)
def test_parity_however_many_ctas_share_what_is_streamed(library, size, estimator, ctas):
    with cuda_cut(library, {"log_densities_ctas": ctas}):
        parity.check_parity(*size, torch.float32, estimator, "cpu")


@pytest.mark.parametrize("dtype", parity.DTYPES, ids=str)
def test_any_strides_give_the_same_bits(dtype):
    parity.check_layouts(dtype, "cpu")


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("size", [(64, 7), (290, 2)], ids=str)
def test_shards_are_rows_of_the_whole(size, estimator):
    parity.check_shards(*size, estimator, "cpu")


def test_tails():
    parity.check_tails("cpu")


def test_nan_stays_where_it_belongs():
    parity.check_nan("cpu")


def test_empty_batches_and_no_channels():
    parity.check_empty("cpu")


def test_what_does_not_fit_is_refused():
    parity.check_refusals("cpu")

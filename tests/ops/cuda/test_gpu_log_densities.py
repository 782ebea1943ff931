"""The CUDA backend's log densities on a GPU."""

import pytest
import torch

from betavae_fast.ops.backends import missing
from tests.cuda_graphs import captured
from tests.ops.cuda import log_densities_parity as parity

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(missing("cuda")), reason=missing("cuda")),
    pytest.mark.usefixtures("poisoned_memory"),
]
MSS = parity.ESTIMATORS["mss"]


@pytest.fixture(autouse=True)
def _reference():
    missing("reference")


@pytest.mark.parametrize("estimator", parity.ESTIMATORS)
@pytest.mark.parametrize("dtype", parity.DTYPES, ids=str)
@pytest.mark.parametrize("dims", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("batch", [2, 3, 17, 64, 130])
def test_parity_with_a_brute_force(batch, dims, dtype, estimator):
    parity.check_parity(batch, dims, dtype, estimator, "cuda")


@pytest.mark.parametrize("dtype", parity.DTYPES, ids=str)
def test_any_strides_give_the_same_bits(dtype):
    parity.check_layouts(dtype, "cuda")


@pytest.mark.parametrize("estimator", parity.ESTIMATORS)
@pytest.mark.parametrize("size", [(64, 7), (2500, 10)], ids=str)
def test_shards_are_rows_of_the_whole(size, estimator):
    parity.check_shards(*size, estimator, "cuda")


def test_tails():
    parity.check_tails("cuda")


def test_nan_stays_where_it_belongs():
    parity.check_nan("cuda")


def test_empty_batches_and_no_channels():
    parity.check_empty("cuda")


def test_what_does_not_fit_is_refused():
    parity.check_refusals("cuda")


def test_results_repeat_bit_for_bit():
    inputs, grads = parity.posteriors(3000, 16, torch.float32, "cuda"), parity.upstream(3000, 16, "cuda")
    first, *others = (parity.there_and_back(inputs, grads, (0, 50_000, MSS)) for _ in range(5))
    assert all(all(map(torch.equal, first, other)) for other in others)


def test_memory_does_not_grow_with_the_pairs():
    batch, dims = 1 << 15, 10
    inputs, grads = (
        parity.posteriors(batch, dims, torch.float32, "cuda"),
        parity.upstream(batch, dims, "cuda"),
    )
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    parity.there_and_back(inputs, grads, (0, 1 << 20, MSS))
    assert torch.cuda.max_memory_allocated() - before < 100 * 4 * batch * dims


def test_a_graph_replays_with_new_inputs():
    inputs, grads = parity.posteriors(300, 10, torch.float32, "cuda"), parity.upstream(300, 10, "cuda")

    def step():
        return parity.there_and_back(inputs, grads, (0, 1_000, MSS))

    graph, results = captured(step)
    for _ in range(2):
        inputs[1].mul_(0.5)
        graph.replay()
        assert all(map(torch.equal, [x.clone() for x in results], step()))

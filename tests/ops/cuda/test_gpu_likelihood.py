"""The CUDA backend's likelihood on a GPU."""

import pytest
import torch

import betavae_fast
from betavae_fast.ops.backends import missing
from tests.cuda_graphs import captured
from tests.ops.cuda import likelihood_parity as parity

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing("cuda")), reason=missing("cuda"))]
SHAPES = ((1, 64), (5, 7), (300, 1), (64, 784), (4, 3, 32, 32), (2, 3, 5, 7))


@pytest.fixture(autouse=True)
def _reference():
    missing("reference")


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("likelihood", parity.LIKELIHOODS)
@pytest.mark.parametrize("kind", parity.TARGETS)
@pytest.mark.parametrize("dtype", parity.DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity_with_float64_in_every_layout(shape, dtype, kind, likelihood):
    for reduction in parity.NLL_REDUCTIONS:
        parity.check_parity(shape, dtype, kind, likelihood, reduction, "cuda")


@pytest.mark.parametrize("shape", [(5, 16), (9, 3), (4, 3, 5, 7), (3, 1300)], ids=str)
@pytest.mark.parametrize("dtype", parity.DTYPES, ids=str)
def test_a_gradient_may_have_any_strides(shape, dtype):
    parity.check_grad_nll_of_any_strides(shape, dtype, "cuda")


@pytest.mark.parametrize("kind", parity.TARGETS)
@pytest.mark.parametrize("dtype", parity.DTYPES, ids=str)
def test_finish_writes_only_where_the_gradient_is_not_one(dtype, kind):
    parity.check_finish((3, 2, 4, 6), dtype, kind, "cuda")


def test_every_uint8_pixel_is_correctly_rounded():
    parity.check_pixels("cuda")


def test_extreme_values():
    parity.check_extremes("cuda")


def test_empty_batches():
    parity.check_empty("cuda")


def test_what_does_not_fit_is_refused_with_its_values():
    parity.check_refusals("cuda")


@pytest.mark.parametrize("reduction", parity.NLL_REDUCTIONS)
def test_results_repeat_bit_for_bit(reduction):
    logits, target = parity.inputs((512, 3, 64, 64), torch.bfloat16, "uint8", "cuda")
    first, *others = (
        betavae_fast.bernoulli_nll(logits, target, reduction=reduction, backend="cuda") for _ in range(5)
    )
    assert all(torch.equal(first, other) for other in others)


def test_a_graph_replays_forward_and_finish_with_new_inputs():
    logits, target = parity.inputs((64, 3, 32, 32), torch.float32, "uint8", "cuda")
    grad_nll = torch.ones((), device="cuda")
    settings = (False, parity.LIKELIHOODS["bernoulli"], 1.0, parity.REDUCTIONS["batchmean"])

    def step():
        nll, grad = parity.ops().likelihood_forward_cuda(logits, target, *settings, True)
        parity.ops().likelihood_finish_cuda(grad, grad_nll, logits, target, *settings)
        return nll, grad

    graph, results = captured(step)
    for value in (1.0, 0.5):
        grad_nll.fill_(value)
        logits.neg_()
        graph.replay()
        replayed = [x.clone() for x in results]
        assert all(torch.equal(a, b) for a, b in zip(replayed, step(), strict=True))
        backward = parity.ops().likelihood_backward_cuda(grad_nll, logits, target, *settings)
        assert torch.equal(replayed[1], backward)


def test_more_than_2_to_the_31_elements(gpu_memory):
    rows, cols = (1 << 31) // 784 + 5, 784
    gpu_memory(8 * rows * cols)
    logits = torch.zeros(rows, cols, dtype=torch.bfloat16, device="cuda")
    target = torch.zeros(rows, cols // 8, dtype=torch.uint8, device="cuda")
    logits[-1], target[-1] = 2.0, 255
    nll, grad = parity.ops().likelihood_forward_cuda(logits, target, True, 0, 1.0, 2, True)
    expected = torch.nn.functional.softplus(torch.tensor([0.0, -2.0])).mul(cols)
    torch.testing.assert_close(nll[-2:].cpu(), expected)
    assert (grad[:-1] == 0.5).all() and ((grad[-1] + 0.1192).abs() < 1e-3).all()

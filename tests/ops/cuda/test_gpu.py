"""The CUDA backend on a GPU."""

import pytest
import torch

import betavae_fast
from benchmarks.cuts import cuda_cut
from betavae_fast.noise import make_rng, normals
from betavae_fast.ops.backends import CUDA_LIBRARY, missing
from tests.cuda_graphs import captured
from tests.ops import second_gpu
from tests.ops.cuda import parity

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing("cuda")), reason=missing("cuda"))]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
REDUCTIONS = ("none", "dim", "sample", "batchmean", "sum")
SHAPES = (
    (64, 10),
    (1, 1),
    (1, 1500),
    (1, 3000),
    (3000, 1),
    (7, 3),
    (33, 128),
    (9, 511),
    (64, 5000),
    (4, 4097),
    (4, 4, 32, 32),
    (2, 3, 5, 7),
)


@pytest.fixture(autouse=True)
def _reference():
    missing("reference")


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity_with_float64_in_every_layout(shape, dtype, reduction):
    parity.check_parity(torch.Size(shape), dtype, reduction, "cuda")


@pytest.mark.parametrize("figures", parity.CUTS, ids=str)
@pytest.mark.parametrize("shape", [(700, 10), (30, 1300)], ids=str)
def test_parity_however_a_launch_is_cut(shape, figures):
    with cuda_cut(CUDA_LIBRARY, figures):
        for reduction in REDUCTIONS:
            parity.check_parity(torch.Size(shape), torch.float32, reduction, "cuda", layouts=("contiguous",))


@pytest.mark.parametrize("shape", [*SHAPES, (65536, 128), (64, 32768)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_the_layout(shape, dtype):
    parity.check_bits_do_not_depend_on_layout(shape, dtype, "cuda")


@pytest.mark.parametrize("shape", [(11, 10), (6, 7), (5, 700), (4096, 128)], ids=str)
def test_shards_of_a_batch_give_the_bits_of_the_whole(shape):
    parity.check_shards(shape, "cuda")


@pytest.mark.parametrize(("rows", "cols"), [(1 << 15, 128), (599_187, 7)])
def test_noise_has_the_bits_of_the_contract(rows, cols):
    parity.check_noise_bits(rows, cols, "cuda")


def test_clamped_elements_have_no_gradient_and_nan_stays():
    parity.check_clamp("cuda")


def test_only_needed_gradients_are_computed():
    parity.check_only_needed_gradients("cuda")


def test_the_packed_gradient_has_the_bits_of_the_two():
    parity.check_packed_gradient("cuda")


def test_empty_batches():
    parity.check_empty("cuda")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_runs_repeat_bit_for_bit(reduction):
    mu, logvar, _ = parity.inputs((65536, 128), torch.float32, "cuda")
    runs = [
        betavae_fast.reparameterize_kl(mu, logvar, seed=7, reduction=reduction, backend="cuda")
        for _ in range(5)
    ]
    for run in runs[1:]:
        assert torch.equal(run.z, runs[0].z) and torch.equal(run.kl, runs[0].kl)


def test_a_graph_replays_forward_and_backward_with_a_new_seed():
    mu, logvar, grad_z = parity.inputs((512, 32), torch.float32, "cuda")
    grad_kl, seed = torch.ones(32, device="cuda"), make_rng("cuda", seed=1)

    def step():
        arguments = (mu, logvar, seed, None, 0, *parity.ANY, 1)
        forward = parity.ops().latent_forward_cuda(*arguments)
        return (*forward, *parity.ops().latent_backward_cuda(grad_z, grad_kl, *arguments, True, True))

    graph, results = captured(step)
    for value in (2, 3):
        seed.copy_(make_rng("cuda", seed=value))
        graph.replay()
        replayed = [x.clone() for x in results]
        assert all(torch.equal(a, b) for a, b in zip(replayed, step(), strict=True))


def test_a_graph_holds_the_seed_that_it_was_given_as_a_number():
    mu = torch.zeros(512, 32, device="cuda")
    graph, z = captured(lambda: betavae_fast.reparameterize(mu, mu, seed=7, backend="cuda"))
    graph.replay()
    assert torch.equal(z.cpu(), normals(make_rng("cpu", seed=7), 0, 512 * 32).view(512, 32))


def test_a_launch_goes_to_the_current_stream():
    mu = torch.zeros(1 << 20, 16, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        mu.fill_(2.0)
        kl = parity.ops().latent_kl_cuda(
            mu, torch.zeros_like(mu), *parity.ANY, parity.REDUCTIONS["batchmean"]
        )
    stream.synchronize()
    assert kl.item() == 32.0


@second_gpu.needed
def test_a_second_gpu_is_served_while_the_first_is_current():
    second_gpu.check("cuda")


def test_more_than_2_to_the_31_elements(gpu_memory):
    rows, cols = (1 << 31) // 128 + 5, 128
    gpu_memory(5 * rows * cols * 2)
    zero = torch.zeros(rows, cols, dtype=torch.bfloat16, device="cuda")
    zero[-1] = 1.0
    z, kl = parity.ops().latent_forward_cuda(zero, zero, make_rng("cuda", seed=4), None, 0, *parity.ANY, 2)
    assert kl[:-1].abs().max().item() == 0 and kl[-1].item() > 0
    expected = normals(make_rng("cpu", seed=4), (rows - 2) * cols, cols).bfloat16()
    assert torch.equal(z[-2].cpu(), expected)
    columns = parity.ops().latent_kl_cuda(zero, zero, *parity.ANY, 1)
    torch.testing.assert_close(columns.sum() * rows, kl[-1])


def test_float64_is_refused_with_a_way_out():
    x = torch.zeros(2, 2, dtype=torch.float64, device="cuda")
    with pytest.raises(RuntimeError, match='backend="reference"'):
        parity.ops().latent_kl_cuda(x, x, *parity.ANY, 1)

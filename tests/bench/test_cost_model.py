"""The bytes and operations that an op needs, the base of every ratio to the floor."""

import pytest
import torch

from betavae_fast.bench.registry import DIRECTIONS, get

OP = get("latent")


@pytest.mark.parametrize(("direction", "tensors"), [("forward", 3), ("backward", 5), ("forward+backward", 8)])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_the_latent_op_moves_eight_tensors(direction, tensors, dtype, size):
    assert OP.cost_of(direction).bytes((65536, 128), dtype) == tensors * 65536 * 128 * size


def test_bytes_count_every_dimension():
    assert OP.cost_of("forward").bytes((2, 3, 5, 7), torch.float32) == 3 * 2 * 3 * 5 * 7 * 4


def test_backward_draws_the_noise_again():
    forward, backward, both = (OP.cost_of(d) for d in DIRECTIONS)
    for operations in ("transcendentals", "integer"):
        assert getattr(backward, operations) == getattr(forward, operations) > 0
    assert both.arithmetic == forward.arithmetic + backward.arithmetic


def test_the_problem_has_the_tensors_that_the_floor_counts():
    problem = OP.setup((6, 5), torch.bfloat16, torch.device("cpu"), seed=0)
    outputs = OP.formula(problem.inputs, None)
    large = [x for x in (*problem.inputs, *outputs) if x.shape == (6, 5)]
    assert len(large) == OP.cost["forward"].reads + OP.cost["forward"].writes
    assert len(problem.leaves) == OP.cost["backward"].writes
    assert all(x.dtype == torch.bfloat16 for x in large)


def test_pairs_count_their_exponentials():
    """A pair has one exponential for each channel and one for itself, forward and again backward. No pair goes through
    memory.
    """
    op = get("log_densities")
    for direction in ("forward", "backward"):
        assert op.cost_of(direction).operations((256, 10))[0] == 256**2 * 11
    assert op.cost_of("forward+backward").operations((256, 10))[0] == 2 * 256**2 * 11
    assert op.cost_of("forward+backward").bytes((256, 10), torch.float32) == 9 * 256 * 10 * 4
    assert OP.cost_of("forward").operations((64, 10)) == (2.5 * 640, 11 * 640, 10 * 640)

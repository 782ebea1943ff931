"""The parity check: a contender that computes something else never gets a speed-up."""

from math import inf, nan

import pytest
import torch

from benchmarks.__main__ import main
from betavae_fast.bench import parity
from betavae_fast.bench.latent import eager
from betavae_fast.bench.registry import Contender
from betavae_fast.bench.results import Results
from betavae_fast.bench.runner import line_up


def _std_is_variance(inputs, noise):
    mu, logvar = inputs
    return eager((mu, 2 * logvar), noise)[0], eager(inputs, noise)[1]


def _sums_over_the_batch(inputs, noise):
    z, kl = eager(inputs, noise)
    return z, kl * len(z)


def _kl_without_gradient(inputs, noise):
    z, kl = eager(inputs, noise)
    return z, kl.detach() + 0 * z.sum()


def _sample_without_gradient_to_logvar(inputs, noise):
    mu, logvar = inputs
    return eager((mu, logvar.detach()), noise)[0], eager(inputs, noise)[1]


def _one_wrong_element(inputs, noise):
    z, kl = eager(inputs, noise)
    return z + torch.zeros_like(z).index_put((torch.tensor(7), torch.tensor(1)), torch.tensor(1e-3)), kl


def _transposed_kl(inputs, noise):
    z, kl = eager(inputs, noise)
    return z, kl.view(-1, 1)


def _not_a_number(inputs, noise):
    z, kl = eager(inputs, noise)
    return z, kl / 0 * 0


# These contenders are right if noise is given and wrong if they draw it themselves, which is the timed case.
def _no_noise_of_its_own(inputs, noise):
    return eager(inputs, torch.zeros_like(inputs[0]) if noise is None else noise)


def _uniform_noise(inputs, noise):
    return eager(inputs, torch.rand_like(inputs[0]) if noise is None else noise)


def _same_noise_every_time(inputs, noise):
    fixed = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(3))
    return eager(inputs, fixed if noise is None else noise)


WRONG = [
    _std_is_variance,
    _sums_over_the_batch,
    _kl_without_gradient,
    _sample_without_gradient_to_logvar,
    _one_wrong_element,
    _transposed_kl,
    _not_a_number,
    _no_noise_of_its_own,
    _uniform_noise,
    _same_noise_every_time,
]


def _check(op, dtype, shape=(64, 10)):
    problem = op.setup(shape, dtype, torch.device("cpu"), 0)
    return parity.check(op, problem, line_up(op, shape, torch.device("cpu"))[1])


@pytest.mark.parametrize("forward", WRONG)
def test_a_wrong_contender_is_found(small_latent, forward):
    op = small_latent(Contender("wrong", lambda: forward))
    with pytest.raises(parity.ParityError, match="wrong"):
        _check(op, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_contenders_agree(small_latent, dtype):
    errors = _check(small_latent(), dtype)
    assert {e.contender for e in errors} == {"eager", "distributions", "reference"}
    assert {e.quantity for e in errors} >= {"z", "kl", "gradient 0", "gradient 1", "noise variance"}


def test_a_single_rare_number_is_no_wrong_variance(small_latent):
    """One normal in 300 is beyond 3 and one in 3 million beyond 5.1; the square of a normal has a long tail."""
    drawn = iter((3.6, -3.7, 3.8, 3.9))

    def rare(inputs, noise):
        return eager(inputs, torch.full_like(inputs[0], next(drawn)) if noise is None else noise)

    op = small_latent()
    problem = op.setup((1, 1), torch.float32, torch.device("cpu"), 0)
    errors = parity.check(op, problem, {Contender("rare", lambda: rare): rare})
    assert any(e.quantity == "noise variance" and e.error > 11 for e in errors)


@pytest.mark.parametrize(("error", "budget"), [(inf, inf), (nan, 1.0), (0.0, nan), (2.0, 1.0)])
def test_what_is_not_finite_is_within_no_budget(error, budget):
    """Error and budget are both infinite if the plain formula and the contender overflow."""
    assert not parity.Error("x", "given", "nll", error, budget).within_budget


def test_ours_are_held_to_float32_arithmetic_in_bfloat16(small_latent):
    op = small_latent(Contender("in bfloat16", lambda: eager, ours=True))
    with pytest.raises(parity.ParityError, match="in bfloat16"):
        _check(op, torch.bfloat16, (512, 10))


def _raises(inputs, noise):
    raise RuntimeError("no kernel image\nis there")


def _raises_in_backward(inputs, noise):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, grad):
            raise TypeError("grad has initial type fp32")

    z, kl = eager(inputs, noise)
    return Wrong.apply(z), kl


@pytest.mark.parametrize(
    ("forward", "named"),
    [
        (_sums_over_the_batch, "wrong: given noise: kl is off by "),
        (_transposed_kl, "wrong: given noise: kl has shape (3, 1), not (3,)"),
        (_raises, "wrong: RuntimeError: no kernel image"),
        (_raises_in_backward, "wrong: TypeError: grad has initial type fp32"),
    ],
)
def test_one_that_fails_is_named_and_not_timed_and_the_others_are(
    forward, named, small_latent, tmp_path, capsys
):
    small_latent(Contender("wrong", lambda: forward))
    out = tmp_path / "results.json"
    assert main(["latent", "--quick", "--out", str(out)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"FAILED latent (16, 3) fp32: {named}")
    results = Results.load(out)
    assert {m.contender for m in results.measurements} == {"eager", "distributions", "reference"}
    assert list(results.parity[0].failed) == ["wrong"]
    assert "wrong" not in {e.contender for e in results.parity[0].errors}


def test_where_all_fail_nothing_is_written(small_latent, tmp_path, capsys):
    small_latent(Contender("wrong", lambda: _raises))
    options = ("--quick", "--contenders", "wrong", "--out", str(tmp_path / "results.json"))
    assert main(["latent", *options]) == 1
    printed = capsys.readouterr().out
    assert "Nothing was measured" in printed and "FAILED" in printed and not list(tmp_path.iterdir())

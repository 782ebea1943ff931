"""The kernels, compared with the float64 reference for every layout, dtype, reduction and kind of shape."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from betavae_fast import gaussian_kl, reparameterize, reparameterize_kl
from betavae_fast.ops.reductions import REDUCTIONS
from tests.layouts import LAYOUTS, dense, fits, lay_out
from tests.ops.triton.interpreted.parity import call, check

pytestmark = pytest.mark.usefixtures("poisoned_memory")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ANY = (-float("inf"), float("inf"))

# One row, one column, several tiles, rows that end within a Philox block, rows of one tile each.
SHAPES = ((1, 1), (1500, 1), (230, 10), (65, 37), (9, 128), (2, 1000), (5, 1001), (2, 3, 5, 7))


def posterior(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(sum(shape))
    values = [torch.randn(shape, generator=draw).to(dtype) for _ in range(4)]
    return lay_out(layout, *values[:2]) + tuple(values[2:])


def check_all(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, reduction: str, first_row: int, given: bool
) -> None:
    mu, logvar, noise, grad_z = posterior(shape, dtype, layout)
    rng, noise = (None, noise) if given else (torch.tensor([11, -3]), None)
    drawn = (rng, noise, first_row, *ANY)
    mode = REDUCTIONS[reduction]
    extent = torch.tensor(float(mu.numel() if reduction == "sum" else 30))
    check("latent_forward", mu, logvar, *drawn, mode, extent=extent)
    kl = call("latent_forward", "reference", mu, logvar, *drawn, mode)[1]
    grad_kl = torch.randn(kl.shape, generator=torch.Generator().manual_seed(1))
    (grad_z,) = lay_out(layout, grad_z) if not layout.startswith(("packed", "mixed")) else (grad_z,)
    check("latent_backward", grad_z, grad_kl, mu, logvar, *drawn, mode, True, True, extent=torch.tensor(30.0))
    if len(shape) > 1 and shape[1] % 2 == 0:
        halves = [None if x is None else x[:, : shape[1] // 2] for x in (grad_z, noise)]
        arguments = (halves[0], None, mu, rng, halves[1], first_row, *ANY, mode)
        check("latent_backward_packed", *arguments, extent=torch.tensor(30.0))


CASES = [
    (layout, reduction, dtype)
    for i, layout in enumerate(LAYOUTS)
    for reduction, dtype in zip(
        ("none", "dim", "sample"), itertools.islice(itertools.cycle(DTYPES), i, i + 3), strict=True
    )
]


@pytest.mark.parametrize(("layout", "reduction", "dtype"), CASES)
def test_every_layout(layout: str, reduction: str, dtype: torch.dtype) -> None:
    shape = (6, 20) if fits(layout, 2) else (3, 4, 4, 3)
    check_all(shape, dtype, layout, reduction, first_row=1, given=dtype == torch.float16)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["dim", "sample"])
def test_every_shape(shape: tuple[int, ...], reduction: str) -> None:
    check_all(shape, torch.float32, "contiguous", reduction, first_row=3, given=False)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("layout", ["contiguous", "packed"])
@pytest.mark.parametrize("reduction", ["dim", "sample", "sum"])
def test_rows_longer_than_a_tile(layout: str, reduction: str) -> None:
    check_all((3, 259), torch.float32, layout, reduction, first_row=3, given=False)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_dimension(reduction: str) -> None:
    """For a batch of scalars, the sum over no dimensions is the element."""
    mu, logvar = torch.randn(9), torch.randn(9)
    column = gaussian_kl(mu[:, None], logvar[:, None], reduction=reduction, backend="triton")
    got = gaussian_kl(mu, logvar, reduction=reduction, backend="triton")
    assert torch.equal(got, column.squeeze(-1) if reduction in ("none", "dim") else column)
    z, kl = reparameterize_kl(mu, logvar, reduction=reduction, seed=1, backend="triton")
    assert torch.equal(kl, got)
    assert torch.equal(z, reparameterize(mu[:, None], logvar[:, None], seed=1, backend="triton").squeeze(-1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["batchmean", "sum"])
def test_many_tiles_are_summed(reduction: str, dtype: torch.dtype) -> None:
    mu, logvar, *_ = posterior((90, 100), dtype, "packed")
    check("latent_kl", mu, logvar, *ANY, REDUCTIONS[reduction], extent=torch.tensor(10.0))


def test_four_strides_within_a_row() -> None:
    """The kernel does not take so many strides, so the op makes a copy."""
    mu = torch.randn(2, 2, 4, 3, 5).permute(0, 3, 1, 4, 2)
    logvar = torch.randn(2, 3, 2, 5, 8)[..., ::2]
    rng, extent = torch.tensor([1, 2]), torch.tensor(30.0)
    check("latent_forward", mu, logvar, rng, None, 1, *ANY, 1, extent=extent)
    grads = torch.randn_like(mu), torch.randn(mu.shape[1:])
    check("latent_backward", *grads, mu, logvar, rng, None, 1, *ANY, 1, True, True, extent=extent)


@pytest.mark.parametrize("layout", ["contiguous", "packed"])
def test_clamp_has_no_gradient_outside_and_keeps_nan(layout: str) -> None:
    mu, logvar, _, grad_z = posterior((8, 12), torch.float32, layout)
    logvar[0, 0], logvar[1, 1], logvar[2, 2] = float("nan"), 50, -0.5
    rng, limits, extent = torch.tensor([1, 2]), (-0.5, 0.7), torch.tensor(30.0)
    check("latent_forward", mu, logvar, rng, None, 0, *limits, 1, extent=extent)
    # Slots without an element must not count, although their 0 is clamped to a value with a KL.
    check("latent_forward", mu, logvar, rng, None, 0, 1.0, 2.0, 4, extent=extent)
    grad_kl = torch.randn(12)
    arguments = (grad_z, grad_kl, mu, logvar, rng, None, 0, *limits, 1, True, True)
    check("latent_backward", *arguments, extent=extent)
    grad_logvar = call("latent_backward", "triton", *arguments)[1]
    assert torch.equal(grad_logvar == 0, (logvar < -0.5) | (logvar > 0.7)) and grad_logvar[0, 0].isnan()


@pytest.mark.parametrize(("need_mu", "need_logvar"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("parts", ["z", "kl", "both"])
def test_only_what_is_needed(need_mu: bool, need_logvar: bool, parts: str) -> None:
    mu, logvar, _, grad_z = posterior((5, 7), torch.float32, "contiguous")
    check(
        "latent_backward",
        None if parts == "kl" else grad_z,
        None if parts == "z" else torch.randn(5),
        *(mu, logvar, torch.tensor([1, 2]), None, 1, *ANY, REDUCTIONS["sample"], need_mu, need_logvar),
        extent=torch.tensor(30.0),
    )


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty(shape: tuple[int, ...], reduction: str) -> None:
    mu, logvar = torch.empty(shape), torch.empty(shape)
    arguments = (mu, logvar, torch.tensor([1, 2]), None, 0, *ANY, REDUCTIONS[reduction])
    check("latent_forward", *arguments, extent=torch.tensor(1.0))
    kl = call("latent_kl", "reference", mu, logvar, *ANY, REDUCTIONS[reduction])[0]
    check("latent_backward", mu, kl, *arguments, True, True, extent=torch.tensor(1.0))


def test_float64_is_refused_by_name() -> None:
    mu = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(TypeError, match="float64"):
        reparameterize(mu, mu, backend="triton")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_infinities_and_nan_stay_where_they_are(dtype: torch.dtype) -> None:
    odd = [float("nan"), float("inf"), -float("inf"), 0.0, 88.0, 90.0, -180.0, 1.0]
    mu = torch.tensor([[m] * 8 for m in odd[:4]], dtype=dtype)
    logvar = torch.tensor([odd] * 4, dtype=dtype)
    noise = torch.full_like(mu, 0.5)
    z, kl = reparameterize_kl(mu, logvar, noise=noise, reduction="none", backend="triton")
    bad = mu.isnan() | logvar.isnan()
    assert torch.equal(z.isnan(), bad | (mu.isinf() & (mu < 0) & (logvar == float("inf"))))
    assert torch.equal(kl.isnan(), bad)
    assert torch.equal(kl[~bad].isinf(), (mu.isinf() | logvar.isinf() | (logvar >= 90))[~bad])


@pytest.mark.parametrize("shape", [(96, 10), (5, 1001)], ids=str)
def test_shards_draw_the_noise_of_the_whole(shape: tuple[int, ...]) -> None:
    mu, logvar, *_ = posterior(shape, torch.float32, "contiguous")
    options = {"seed": 3, "reduction": "sample", "backend": "triton"}
    whole = reparameterize_kl(mu, logvar, **options)
    parts = [
        reparameterize_kl(mu[a:b], logvar[a:b], first_row=a, **options) for a, b in ((0, 3), (3, shape[0]))
    ]
    for i in range(2):
        assert torch.equal(whole[i], torch.cat([part[i] for part in parts]))


@pytest.mark.parametrize("reduction", ["dim", "sample", "sum"])
@pytest.mark.parametrize("layout", ["packed", "transposed"])
def test_bits_do_not_depend_on_the_layout(layout: str, reduction: str) -> None:
    mu, logvar, *_ = posterior((60, 20), torch.float32, layout)
    bits = [
        reparameterize_kl(m, v, seed=1, reduction=reduction, backend="triton")
        for m, v in ((mu, logvar), (dense(mu), dense(logvar)))
    ]
    assert torch.equal(bits[0].z, bits[1].z) and torch.equal(bits[0].kl, bits[1].kl)
    assert torch.equal(
        gaussian_kl(mu, logvar, reduction=reduction, backend="triton"),
        gaussian_kl(dense(mu), dense(logvar), reduction=reduction, backend="triton"),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    mu, logvar, noise, grad_z = posterior((4, 6), dtype, "contiguous")
    rng, ops = torch.tensor([1, 2]), torch.ops.betavae_fast
    tests = ("test_schema", "test_faketensor")
    check_op = lambda op, *arguments: torch.library.opcheck(op, arguments, test_utils=tests)
    check_op(ops.latent_forward_triton.default, mu, logvar, rng, None, 1, *ANY, 1)
    check_op(ops.latent_sample_triton.default, mu, logvar, None, noise, 1, *ANY)
    check_op(ops.latent_kl_triton.default, mu, logvar, *ANY, 2)
    check_op(ops.latent_backward_triton.default, grad_z, None, mu, logvar, rng, None, 1, *ANY, 1, True, False)

"""The public functions under the transforms of torch.func, compared with formulas written out here.

The formulas are what one would write by hand. They share no code with the reference that the transforms go through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log, pi
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from betavae_fast import (
    bernoulli_nll,
    gaussian_kl,
    gaussian_nll,
    kl_decomposition,
    laplace_nll,
    reparameterize,
    reparameterize_kl,
)
from betavae_fast.functional import PackedBits, reparameterize_kl_packed
from betavae_fast.noise import make_rng, normals
from betavae_fast.ops.bias_relu import BiasReluFunction, LinearReluFunction
from betavae_fast.ops.casting import CastAll
from betavae_fast.ops.convolution import ConvolutionFunction
from tests.backends import available_backends
from tests.budget import reduce

ROWS, DIMS, SEED, RANGE = 4, 3, 7, (-0.5, 0.5)
EVERY_BACKEND = pytest.mark.parametrize("backend", available_backends())
REDUCTIONS = ("none", "dim", "sample", "batchmean", "sum")

Function = Callable[..., Any]


class Case(NamedTuple):
    """A function of this library, the formula by hand, and the number of their arguments, each (ROWS, DIMS)."""

    ours: Function
    plain: Function
    arguments: int


def noise(x: Tensor) -> Tensor:
    return normals(make_rng("cpu", seed=SEED), 0, ROWS * DIMS).view(ROWS, DIMS).to(x.dtype)


def plain_sample(mu: Tensor, logvar: Tensor) -> Tensor:
    return mu + torch.exp(logvar / 2) * noise(mu)


def plain_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return (mu**2 + torch.exp(logvar) - 1 - logvar) / 2


def plain_parts(z: Tensor, mu: Tensor, logvar: Tensor, size: int, estimator: str) -> tuple[Tensor, ...]:
    """The decomposition over all pairs, with the weights of Chen et al. 2018, appendix C."""
    rows, own = torch.arange(ROWS), torch.eye(ROWS, dtype=torch.bool)
    if estimator == "mws":
        weights = torch.full((ROWS, ROWS), 1 / (size * ROWS), dtype=z.dtype)
    else:
        others = ROWS - 1
        weights = torch.full((ROWS, ROWS), 1 / others, dtype=z.dtype).masked_fill(own, 1 / size)
        weights[rows, (rows + 1) % ROWS] = (size - others) / (size * others)
    density = -((z[:, None] - mu) ** 2 / logvar.exp() + logvar + log(2 * pi)) / 2
    joint = (density.sum(2).exp() * weights).sum(1).log()
    product = (density.exp() * weights[:, :, None]).sum(1).log().sum(1)
    conditional = density.diagonal().sum(0)
    prior = -(z**2 + log(2 * pi)).sum(1) / 2
    return (conditional - joint).mean(), (joint - product).mean(), (product - prior).mean()


GREY = torch.rand(ROWS, DIMS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
ON = GREY < 0.5
TARGETS: dict[str, Any] = {
    "float": GREY,
    "bool": ON,
    "uint8": (255 * GREY).to(torch.uint8),
    "bits": PackedBits.pack(ON),
}

NLLS: dict[str, tuple[Function, Function]] = {
    "bernoulli": (
        bernoulli_nll,
        lambda x, t: torch.log1p(torch.exp(x)) - x * t,
    ),
    "gaussian": (
        lambda x, t, **options: gaussian_nll(x, t, scale=0.3, **options),
        lambda x, t: ((x - t) / 0.3) ** 2 / 2 + log(0.3 * (2 * pi) ** 0.5),
    ),
    "laplace": (
        lambda x, t, **options: laplace_nll(x, t, scale=0.3, **options),
        lambda x, t: (x - t).abs() / 0.3 + log(0.6),
    ),
}


def pixels(target: Any) -> Tensor:
    if isinstance(target, PackedBits):
        return ON.double()
    return target.double() / (255 if target.dtype == torch.uint8 else 1)


def cases() -> dict[str, Case]:
    found = {
        "reparameterize": Case(lambda m, v: reparameterize(m, v, seed=SEED), plain_sample, 2),
        "clamped": Case(
            lambda m, v: tuple(reparameterize_kl(m, v, seed=SEED, logvar_range=RANGE, reduction="none")),
            lambda m, v: (plain_sample(m, v.clamp(*RANGE)), plain_kl(m, v.clamp(*RANGE))),
            2,
        ),
        "packed": Case(
            lambda m, v: tuple(reparameterize_kl_packed(torch.cat((m, v), 1), seed=SEED)),
            lambda m, v: (plain_sample(m, v), plain_kl(m, v).mean(0)),
            2,
        ),
        "noise": Case(
            lambda m, v: tuple(reparameterize_kl(m, v, noise=noise(m))),
            lambda m, v: (plain_sample(m, v), plain_kl(m, v).mean(0)),
            2,
        ),
    }
    for how in REDUCTIONS:
        found[f"reparameterize_kl {how}"] = Case(
            lambda m, v, how=how: tuple(reparameterize_kl(m, v, seed=SEED, reduction=how)),
            lambda m, v, how=how: (plain_sample(m, v), reduce(plain_kl(m, v), how)),
            2,
        )
        found[f"gaussian_kl {how}"] = Case(
            lambda m, v, how=how: gaussian_kl(m, v, reduction=how),
            lambda m, v, how=how: reduce(plain_kl(m, v), how),
            2,
        )
    for name, (ours, plain) in NLLS.items():
        for how in ("none", "sample", "batchmean", "sum"):
            found[f"{name}_nll {how}"] = Case(
                lambda x, f=ours, how=how: f(x, GREY, reduction=how),
                lambda x, f=plain, how=how: reduce(f(x, GREY), how),
                1,
            )
        for kind, target in TARGETS.items():
            found[f"{name}_nll of {kind}"] = Case(
                lambda x, f=ours, target=target: f(x, target),
                lambda x, f=plain, target=target: reduce(f(x, pixels(target)), "batchmean"),
                1,
            )
    for estimator in ("mss", "mws"):
        found[f"kl_decomposition {estimator}"] = Case(
            lambda z, m, v, e=estimator: tuple(kl_decomposition(z, m, v, dataset_size=50, estimator=e)),
            lambda z, m, v, e=estimator: plain_parts(z, m, v, 50, e),
            3,
        )
    return found


CASES = cases()
EVERY_CASE = pytest.mark.parametrize("name", CASES)


def draw(count: int, *leading: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(*leading, ROWS, DIMS, generator=g, dtype=torch.float64).to(dtype) for _ in range(count)
    )


def scalar(function: Function) -> Function:
    """``function`` with its results made one number that depends on each element in another way."""

    def total(*inputs: Tensor) -> Tensor:
        results = function(*inputs)
        results = results if isinstance(results, tuple) else (results,)
        return sum((torch.arange(1, r.numel() + 1).view(r.shape) * r.square()).sum() for r in results)

    return total


TRANSFORMS: dict[str, Callable[[Function, tuple[Tensor, ...]], Any]] = {
    "grad": lambda f, x: grad(scalar(f), every(x))(*x),
    "vjp": lambda f, x: vjp(scalar(f), *x)[1](torch.tensor(0.5, dtype=x[0].dtype)),
    "jacrev": lambda f, x: jacrev(f, every(x))(*x),
    "jacfwd": lambda f, x: jacfwd(f, every(x))(*x),
    "jvp": lambda f, x: jvp(f, x, tuple(t + 1 for t in x)),
    "linearize": lambda f, x: linearize(f, *x)[1](*x),
    "hessian": lambda f, x: hessian(scalar(f), every(x))(*x),
    "reverse over reverse": lambda f, x: jacrev(jacrev(scalar(f), every(x)), every(x))(*x),
    "reverse over forward": lambda f, x: jacrev(jacfwd(scalar(f), every(x)), every(x))(*x),
    "forward over forward": lambda f, x: jacfwd(jacfwd(scalar(f), every(x)), every(x))(*x),
    "vmap of grad": lambda f, x: vmap(grad(scalar(f), every(x)))(*(torch.stack((t, 2 * t)) for t in x)),
    "grad of vmap": lambda f, x: grad(lambda *y: scalar(vmap(f))(*y), every(x))(
        *(torch.stack((t, 2 * t)) for t in x)
    ),
    "forward mode": lambda f, x: forward_mode(f, x),
}


def every(x: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(range(len(x)))


def forward_mode(f: Function, x: tuple[Tensor, ...]) -> Any:
    with torch.autograd.forward_ad.dual_level():
        results = f(*(torch.autograd.forward_ad.make_dual(t, t + 1) for t in x))
        results = results if isinstance(results, tuple) else (results,)
        return [torch.autograd.forward_ad.unpack_dual(r).tangent for r in results]


@pytest.mark.filterwarnings("ignore")  # torch.func.linearize warns of what torch itself calls
@pytest.mark.parametrize("transform", TRANSFORMS)
@EVERY_CASE
def test_every_transform_is_that_of_the_formula(name: str, transform: str) -> None:
    ours, plain, count = CASES[name]
    x = draw(count)
    run = TRANSFORMS[transform]
    torch.testing.assert_close(run(ours, x), run(plain, x), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@EVERY_CASE
def test_vmap_is_a_call_for_each_member(name: str, dtype: torch.dtype) -> None:
    """The ordinary calls go through the kernels."""
    ours, _, count = CASES[name]
    x = draw(count, 3, dtype=dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-7}[dtype]
    for dim in (0, 1, -1):
        for fixed in range(count):  # the argument that all members share; with one argument none is
            dims = tuple(None if count > 1 and i == fixed else dim for i in range(count))
            members = [
                ours(*(t[0] if d is None else t[i] for t, d in zip(x, dims, strict=True))) for i in range(3)
            ]
            found = vmap(ours, dims)(
                *(t[0] if d is None else t.movedim(0, d) for t, d in zip(x, dims, strict=True))
            )
            for i, member in enumerate(members):
                one = tuple(r[i] for r in found) if isinstance(found, tuple) else found[i]
                torch.testing.assert_close(one, member, rtol=tolerance, atol=tolerance)


@EVERY_CASE
def test_nested_vmap_is_a_call_for_each_pair(name: str) -> None:
    ours, _, count = CASES[name]
    first, *others = draw(count, 2)
    nested = vmap(vmap(ours, (None, *[0] * (count - 1))) if count > 1 else ours, (0, *[None] * (count - 1)))
    found = nested(first, *others)
    for i in range(2):
        for j in range(2 if count > 1 else 1):
            one = ours(first[i], *(x[j] for x in others))
            index = (i, j) if count > 1 else (i,)
            torch.testing.assert_close(
                tuple(r[index] for r in found) if isinstance(found, tuple) else found[index],
                one,
                rtol=1e-12,
                atol=1e-12,
            )


@EVERY_CASE
def test_a_batch_of_cotangents_gives_the_gradient_of_each(name: str, capfd: Any) -> None:
    """Forward runs outside of the transform, so that backward's kernels run inside."""
    ours, _, count = CASES[name]
    x = tuple(t.requires_grad_() for t in draw(count))
    results = ours(*x)
    results = results if isinstance(results, tuple) else (results,)
    cotangents = tuple(torch.stack((torch.ones_like(r), r.detach())) for r in results)

    def backward(*grads: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(results, x, grads, retain_graph=True)

    found = vmap(backward)(*cotangents)
    for i in range(2):
        one = backward(*(c[i] for c in cotangents))
        torch.testing.assert_close(tuple(f[i] for f in found), one, rtol=1e-12, atol=1e-12)
    assert "performance drop" not in capfd.readouterr().err


def gradients_of(
    function: Function, count: int, again: bool
) -> tuple[Function, Function, tuple[Tensor, ...]]:
    """The backward of a call outside of every transform, the gradient of its results' squares, and cotangents."""
    x = tuple(t.requires_grad_() for t in draw(count))
    results = function(*x)
    results = results if isinstance(results, tuple) else (results,)
    cotangents = tuple(torch.linspace(-1, 2, r.numel(), dtype=r.dtype).view(r.shape) for r in results)

    def backward(*grads: Tensor, **options: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(results, x, grads, retain_graph=True, create_graph=again, **options)

    def second(*first: Tensor) -> tuple[Tensor, ...]:
        total = sum(t.square().sum() for t in first)
        return torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)

    return backward, second, cotangents


@pytest.mark.parametrize("again", [False, True], ids=("", "create_graph"))
@EVERY_CASE
def test_forward_derivatives_pass_through_an_ordinary_backward(name: str, again: bool) -> None:
    ours, plain, count = CASES[name]
    found = []
    for function in (ours, plain):
        backward, second, cotangents = gradients_of(function, count, again)
        along = jvp(backward, cotangents, cotangents)[1]
        pairs = [torch.stack((c, 2 * c + 1)) for c in cotangents]
        found.append(
            [
                along,
                vmap(lambda *u, f=backward: jvp(f, u, u))(*pairs),
                forward_mode(backward, cotangents),
                second(*along) if again and any(t.requires_grad for t in along) else (),
            ]
        )
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-11)


@EVERY_CASE
def test_batched_gradients_can_be_differentiated_again(name: str) -> None:
    ours, plain, count = CASES[name]
    found = []
    for function in (ours, plain):
        backward, second, cotangents = gradients_of(function, count, again=True)
        batched = backward(*(torch.stack((c, 2 * c + 1)) for c in cotangents), is_grads_batched=True)
        found.append([batched, second(*batched) if any(t.requires_grad for t in batched) else ()])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-11)


def convolved(x: Tensor) -> Tensor:
    weight = torch.linspace(-1, 1, 32 * 32 * 16, dtype=torch.bfloat16).view(32, 32, 4, 4)
    image = x.to(torch.bfloat16).repeat(3, 11)[:, :32, None, None].expand(-1, -1, 4, 4)
    result: Tensor = ConvolutionFunction.apply(image, weight, torch.zeros(32), False, True)
    return result


LAYERS: dict[str, Function] = {
    "cast": lambda x: CastAll.apply(torch.bfloat16, x)[0],
    "bias": lambda x: BiasReluFunction.apply(x * 1, torch.ones(DIMS)),
    "linear": lambda x: LinearReluFunction.apply(x, torch.eye(DIMS), torch.ones(DIMS)),
    "convolution": convolved,
}


@pytest.mark.parametrize("name", LAYERS)
def test_forward_derivatives_pass_through_the_backward_of_a_layer(name: str) -> None:
    (x,) = draw(1, dtype=torch.float32)
    y = LAYERS[name](x.requires_grad_())

    def backward(u: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, u, retain_graph=True)[0]

    gradient, along = jvp(backward, (torch.ones_like(y),), (torch.ones_like(y),))
    assert along.abs().max() > 0
    torch.testing.assert_close(along, gradient)  # backward is linear


@EVERY_BACKEND
@pytest.mark.parametrize("first_row", [0, 5])
@pytest.mark.parametrize("dim", [0, 1])
def test_vmap_over_seeds_draws_the_noise_of_each(backend: str, first_row: int, dim: int, capfd: Any) -> None:
    zero = torch.zeros(9, 5)
    seeds = torch.tensor([[3, 0], [3, 1], [-4, 1 << 40]])
    options: Any = {"first_row": first_row, "backend": backend}
    found = vmap(lambda s: reparameterize(zero, zero, seed=s, **options), dim)(seeds.movedim(0, dim))
    for drawn, seed in zip(found, seeds, strict=True):
        assert torch.equal(drawn, reparameterize(zero, zero, seed=seed, **options))
        assert torch.equal(drawn, normals(seed, 5 * first_row, 45).view(9, 5))
    assert "performance drop" not in capfd.readouterr().err


@EVERY_BACKEND
def test_vmap_over_models_and_seeds_pairs_them(backend: str) -> None:
    zeros, seeds = torch.zeros(2, 4, 3), torch.tensor([[1, 0], [2, 0], [3, 0]])

    def sample(x: Tensor, seed: Tensor) -> Tensor:
        return reparameterize_kl(x, x, seed=seed, backend=backend).z

    found = vmap(vmap(sample, (None, 0)), (0, None))(zeros, seeds)
    assert found.shape == (2, 3, 4, 3)
    for i in range(2):
        for j in range(3):
            assert torch.equal(found[i, j], sample(zeros[i], seeds[j]))


def test_the_randomness_of_vmap_governs_noise_without_a_seed() -> None:
    zeros = torch.zeros(3, 4, 5)

    def sample(x: Tensor) -> Tensor:
        return reparameterize(x, x)

    with pytest.raises(RuntimeError, match="randomness error mode"):
        vmap(sample)(zeros)
    torch.manual_seed(5)
    same = vmap(sample, randomness="same")(zeros)
    torch.manual_seed(5)
    assert torch.equal(same, sample(zeros[0]).expand(3, 4, 5))
    torch.manual_seed(5)
    different = vmap(sample, randomness="different")(zeros)
    torch.manual_seed(5)
    seeds = vmap(lambda _: make_rng("cpu"), randomness="different")(zeros)
    assert len({tuple(s.tolist()) for s in seeds}) == 3
    for drawn, seed in zip(different, seeds, strict=True):
        assert torch.equal(drawn, sample_with(seed))


def sample_with(seed: Tensor) -> Tensor:
    return reparameterize(torch.zeros(4, 5), torch.zeros(4, 5), seed=seed)


@pytest.mark.parametrize("differentiate", [jacrev, jacfwd])
def test_derivatives_where_hand_written_formulas_go_wrong(differentiate: Any) -> None:
    """At a logit of 0 the absolute value has no derivative, and far from it exp overflows."""
    x = torch.tensor([0.0, 1e3, -1e3], dtype=torch.float64)
    t = torch.tensor([0.25, 1.0, 0.0], dtype=torch.float64)

    def nll(y: Tensor) -> Tensor:
        return bernoulli_nll(y, t, reduction="sum")

    close: Any = torch.testing.assert_close
    close(differentiate(nll)(x), torch.tensor([0.25, 0.0, 0.0], dtype=torch.float64))
    close(differentiate(grad(nll))(x).diagonal(), torch.tensor([0.25, 0.0, 0.0], dtype=torch.float64))

    v = torch.tensor([0.0, 1e-9, -1e3], dtype=torch.float64)

    def kl(w: Tensor) -> Tensor:
        return gaussian_kl(torch.zeros_like(w), w, reduction="sum")

    close(differentiate(kl)(v), 0.5 * torch.expm1(v), rtol=1e-6, atol=0)
    close(differentiate(grad(kl))(v).diagonal(), 0.5 * torch.exp(v))
    assert differentiate(kl)(v)[0] == 0, "an unused channel has no gradient"
    assert differentiate(lambda x: laplace_nll(x, x.detach(), reduction="sum"))(x).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_certain_and_right_bernoulli_keeps_its_digits(dtype: torch.dtype) -> None:
    """The form log(1 + eˣ) − x t would cancel: at x = 36 no digit would be left."""
    x = torch.tensor([5.0, 30.0, 36.0, 50.0, 80.0], dtype=dtype)
    for t in (0.0, 1.0):
        logit, target = (2 * t - 1) * x, torch.full_like(x, t)
        expected = torch.log1p(torch.exp(-x.double())).to(dtype)
        for nll in (
            bernoulli_nll(logit, target, reduction="none", backend="reference"),
            vmap(lambda a, b: bernoulli_nll(a[None], b[None]))(logit, target),
        ):
            torch.testing.assert_close(nll, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("differentiate", [jacrev, jacfwd])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_has_the_ordinary_gradient(differentiate: Any, value: float) -> None:
    """A gradient of 0 would hide a NaN."""
    x = torch.full((1, 1), value)
    functions: dict[str, Function] = {
        "kl": lambda v: gaussian_kl(torch.zeros_like(v), v, reduction="sum"),
        "kl of mu": lambda m: gaussian_kl(m, torch.zeros_like(m), reduction="sum"),
        "clamped": lambda v: gaussian_kl(torch.zeros_like(v), v, reduction="sum", logvar_range=RANGE),
        "sample": lambda v: reparameterize(torch.zeros_like(v), v, noise=torch.ones_like(v)).sum(),
        "bernoulli": lambda y: bernoulli_nll(y, torch.zeros_like(y)),
        "gaussian": lambda y: gaussian_nll(y, torch.zeros_like(y)),
        "laplace": lambda y: laplace_nll(y, torch.zeros_like(y)),
    }
    for name, function in functions.items():
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(function(leaf), leaf)
        found = differentiate(function)(x)
        torch.testing.assert_close(found, expected, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("argument", range(3), ids=("z", "mu", "logvar"))
def test_a_decomposition_that_is_not_finite_has_the_ordinary_gradient(value: float, argument: int) -> None:
    inputs = draw(3)
    inputs[argument][1, 2] = value

    def total(*x: Tensor) -> Tensor:
        # The kernels sum in another order, which matters between infinities.
        return sum(kl_decomposition(*x, dataset_size=50, backend="reference"))

    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(total(*leaves), leaves)
    for found, one in zip(jacrev(total, (0, 1, 2))(*inputs), expected, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-10, atol=1e-11, equal_nan=True)
    # In forward mode a tangent of 0 times NaN is a NaN more.
    for found, one in zip(jacfwd(total, (0, 1, 2))(*inputs), expected, strict=True):
        assert found[one.isnan()].isnan().all()


PAIR = torch.zeros(2, 3)
CONSTANTS: dict[str, Function] = {
    "target": lambda t: gaussian_nll(PAIR, t),
    "noise of the sample": lambda e: reparameterize(PAIR, PAIR, noise=e).sum(),
    "noise of both": lambda e: reparameterize_kl(PAIR, PAIR, noise=e).z.sum(),
    "noise of packed": lambda e: reparameterize_kl_packed(torch.cat((PAIR, PAIR), 1), noise=e).z.sum(),
}


@pytest.mark.parametrize("what", CONSTANTS)
def test_targets_and_noise_are_constants_where_no_error_says_so(what: str) -> None:
    function, x = CONSTANTS[what], torch.ones_like(PAIR)
    assert jvp(function, (x,), (x,))[1] == 0
    assert grad(lambda y: vmap(function)(torch.stack((y, y))).sum())(x).abs().max() == 0
    assert not vmap(function)(torch.stack((x, x)).requires_grad_()).requires_grad
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        assert torch.autograd.forward_ad.unpack_dual(function(dual)).tangent is None


def test_gradients_outside_of_vmap_are_those_of_each_member() -> None:
    """An ensemble trains so: vmap computes the losses, and backward the gradients."""
    x, v = (t.requires_grad_() for t in draw(2, 3))

    def loss(m: Tensor, w: Tensor) -> Tensor:
        z, kl = reparameterize_kl(m, w, seed=SEED)
        return bernoulli_nll(z, GREY) + kl.sum()

    together = torch.autograd.grad(vmap(loss)(x, v).sum(), (x, v))
    one_by_one = torch.autograd.grad(sum(map(loss, x, v)), (x, v))
    torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["float", "bool", "uint8", "bits"])
def test_vmap_over_targets(kind: str) -> None:
    target = TARGETS[kind]
    (x,) = draw(1)
    rows = target.rows if kind == "bits" else target

    def nll(y: Tensor, t: Tensor) -> Tensor:
        return bernoulli_nll(y[None], PackedBits(t[None]) if kind == "bits" else t[None])

    torch.testing.assert_close(
        vmap(nll)(x, rows), bernoulli_nll(x, target, reduction="sample"), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(vmap(nll, (None, 0))(x[0], rows)[0], nll(x[0], rows[0]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp"])
def test_a_compiled_transform_is_the_transform(transform: str) -> None:
    def loss(m: Tensor, v: Tensor, seed: Tensor) -> Tensor:
        z, kl = reparameterize_kl(m, v, seed=seed)
        return bernoulli_nll(z, GREY) + kl.sum()

    def run(m: Tensor, v: Tensor, seeds: Tensor) -> Any:
        if transform == "vmap":
            return vmap(grad(loss), (None, None, 0))(m, v, seeds)
        if transform == "grad":
            return grad(loss, (0, 1))(m, v, seeds[0])
        return jvp(lambda m, v: loss(m, v, seeds[0]), (m, v), (v, m))

    inputs = *draw(2), torch.tensor([[1, 0], [2, 0]])
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), run(*inputs), rtol=1e-12, atol=1e-12)


REFUSALS: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "gradient of a target": (
        ValueError,
        "target must not require a gradient",
        lambda: grad(lambda t: bernoulli_nll(PAIR, t))(PAIR),
    ),
    "gradient of noise": (
        ValueError,
        "noise must not require a gradient",
        lambda: grad(lambda e: reparameterize(PAIR, PAIR, noise=e).sum())(PAIR),
    ),
    "no seeds": (
        ValueError,
        "vmap needs at least one member",
        lambda: vmap(lambda s: reparameterize(PAIR, PAIR, seed=s))(torch.zeros(0, 2, dtype=torch.int64)),
    ),
    "group": (
        RuntimeError,
        "group cannot be given under a transform",
        lambda: grad(lambda z: sum(kl_decomposition(z, z, z, dataset_size=9, group=GROUP)))(PAIR),
    ),
}
GROUP = torch.distributed.ProcessGroup(0, 1)


@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_transformed_is_refused_in_one_line(what: str) -> None:
    error, message, call = REFUSALS[what]
    with pytest.raises(error, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)

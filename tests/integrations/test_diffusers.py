"""diffusers' own class and model beside ours: the same numbers for the same noise, and every difference."""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from torch import Tensor

from betavae_fast import DiagonalGaussian

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution  # noqa: E402

from betavae_fast.integrations.diffusers import SameDraws, patch, unpatch  # noqa: E402

DTYPES = (torch.float32, torch.float64)
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])


def parameters(shape: tuple[int, ...] = (3, 8, 5, 4), dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


@pytest.fixture(scope="module")
def vae() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=3,
    )


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@EVERY_DTYPE
@pytest.mark.parametrize("deterministic", [False, True])
def test_attributes_and_methods_agree(deterministic: bool, dtype: torch.dtype) -> None:
    x, y = 12 * parameters(dtype=dtype), parameters(dtype=dtype).roll(1, 0)  # Some log-variances are clamped.
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    ours, theirs = SameDraws(leaves[0], deterministic), DiagonalGaussianDistribution(leaves[1], deterministic)
    found = []
    for q, other in ((ours, DiagonalGaussian(y)), (theirs, DiagonalGaussianDistribution(y))):
        z = q.sample(torch.Generator().manual_seed(3))
        values = {name: getattr(q, name) for name in ("mean", "logvar", "std", "var", "parameters")}
        values |= {"z": z, "mode": q.mode(), "kl": q.kl(), "kl to other": q.kl(other), "nll": q.nll(y[:, :4])}
        if not deterministic:
            values |= {"nll over some": q.nll(y[:, :4], dims=[2, 3])}
        found.append(values)
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    for name, value in found[0].items():
        expected = found[1][name]
        # Their deterministic KL is one float32 zero on the CPU for the whole batch.
        torch.testing.assert_close(value, expected.to(dtype).expand_as(value), rtol=rtol, atol=rtol)
        if value.requires_grad and value is not leaves[0]:
            weight = torch.randn_like(value)
            grads = [
                torch.autograd.grad(values[name], leaf, weight, retain_graph=True)[0]
                for values, leaf in zip(found, leaves, strict=True)
            ]
            torch.testing.assert_close(*grads, rtol=rtol, atol=rtol)


def test_lists_of_generators_agree() -> None:
    x = parameters()
    for count in (1, 3):
        z = [
            kind(x).sample([torch.Generator().manual_seed(i) for i in range(count)])
            for kind in (SameDraws, DiagonalGaussianDistribution)
        ]
        torch.testing.assert_close(*z)


def test_where_theirs_is_not_right() -> None:
    """The test shows the differences that the documentation lists."""
    flat, video = parameters((3, 8)), parameters((2, 4, 3, 5, 4))
    with pytest.raises(IndexError):
        DiagonalGaussianDistribution(flat).kl()
    assert DiagonalGaussian(flat).kl().shape == (3,)
    assert DiagonalGaussianDistribution(video).kl().shape == (2, 4)  # The width is not summed.
    assert DiagonalGaussian(video).kl().shape == (2,)
    theirs = DiagonalGaussianDistribution(parameters(dtype=torch.float64), deterministic=True).kl()
    assert theirs.shape == (1,) and theirs.dtype == torch.float32
    ours = DiagonalGaussian(parameters(dtype=torch.float64), deterministic=True).kl()
    assert ours.shape == (3,) and ours.dtype == torch.float64
    near = torch.zeros(1001, 2, 1, 1)
    near[:, 1, 0, 0] = torch.linspace(-1e-2, 1e-2, 1001)
    for dtype in (torch.float32, torch.bfloat16):
        x = near.to(dtype)
        v = x[:, 1, 0, 0].double()
        exact = 0.5 * (v.expm1() - v)
        assert DiagonalGaussianDistribution(x).kl().min() < 0
        assert DiagonalGaussian(x).kl().min() >= 0
        worst = [
            (kind(x).kl().double() - exact).abs().max()
            for kind in (DiagonalGaussian, DiagonalGaussianDistribution)
        ]
        assert worst[0] < 1e-9 < 1e-8 < worst[1]
    for dtype, theirs in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16)):
        x = parameters(dtype=torch.float32).to(dtype)
        assert DiagonalGaussianDistribution(x).kl().dtype == theirs
        assert DiagonalGaussian(x).kl().dtype == torch.float32


def test_the_gradient_of_a_sample_goes_past_the_mean() -> None:
    """Their gradient goes through the mean. Ours is one tensor for the parameters, and torch raises an error if the
    gradient of the mean is requested.
    """
    x = parameters().requires_grad_()
    theirs, ours = DiagonalGaussianDistribution(x), DiagonalGaussian(x)
    (through,) = torch.autograd.grad(theirs.sample().sum(), theirs.mean)
    assert torch.equal(through, torch.ones_like(through))
    outputs = ours.sample(), ours.kl()
    for output in outputs:
        with pytest.raises(RuntimeError, match="not have been used in the graph"):
            torch.autograd.grad(output.sum(), ours.mean, retain_graph=True)
    (whole,) = torch.autograd.grad(outputs[0].sum(), x)
    assert torch.equal(whole[:, :4], through)


@pytest.mark.parametrize("slicing", [False, True])
def test_a_patched_model_gives_the_same_outputs_and_gradients(
    vae: Any, images: Tensor, slicing: bool
) -> None:
    images = images.double()
    plain, fused = (copy.deepcopy(vae).double() for _ in range(2))
    patch(fused, same_draws=True)
    for model in (plain, fused):
        model.enable_slicing() if slicing else model.disable_slicing()
    found = []
    for model in (plain, fused):
        model.zero_grad()
        z_and_kl = model.encode(images).latent_dist
        decoded = model(images, sample_posterior=True, generator=torch.Generator().manual_seed(7)).sample
        z = z_and_kl.sample(torch.Generator().manual_seed(7))
        (decoded.square().mean() + z.square().mean() + 1e-3 * z_and_kl.kl().mean()).backward()
        found.append([decoded, z, *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*reversed(found), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_patch_is_of_one_object_and_can_be_undone(vae: Any, images: Tensor) -> None:
    vae.disable_slicing()
    patched = patch(copy.deepcopy(vae))
    (posterior,) = patched.encode(images, return_dict=False)
    assert type(posterior) is DiagonalGaussian
    assert torch.equal(posterior.mean, vae.encode(images).latent_dist.mean)
    assert type(vae.encode(images).latent_dist) is DiagonalGaussianDistribution
    assert type(copy.deepcopy(patched).encode(images).latent_dist) is DiagonalGaussian
    assert patched.state_dict().keys() == vae.state_dict().keys()
    assert type(patch(patched, same_draws=True).encode(images).latent_dist) is SameDraws
    assert unpatch(patched) is patched
    assert type(patched.encode(images).latent_dist) is DiagonalGaussianDistribution


class Own(diffusers.AutoencoderKL):
    """A model of the user, with state outside the module."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "got": "state"}


class Reduced(diffusers.AutoencoderKL):
    """A model that defines its own pickling."""

    def __reduce__(self) -> Any:
        return remade, (self.config, self.state_dict())


def remade(config: Any, state: Any) -> Reduced:
    model = Reduced.from_config(config)
    model.load_state_dict(state)
    return model


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def dumped(model: Any) -> Any:
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


def replicated(model: Any) -> Any:
    """Make a replica as DataParallel does, here with other weights."""
    replica = model._replicate_for_data_parallel()
    replica.quant_conv = copy.deepcopy(model.quant_conv)
    return replica


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {p}": lambda model, p=p: pickle.loads(pickle.dumps(model, p)) for p in range(6)},
    "torch.save": saved,
    "joblib.dump": dumped,
    "DataParallel": replicated,
    "twice": lambda model: saved(copy.deepcopy(model)),
}


@pytest.mark.parametrize("same_draws", [False, True])
@pytest.mark.parametrize("kind", [diffusers.AutoencoderKL, Own, Reduced])
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_patched_model_is_patched(
    vae: Any, images: Tensor, how: str, kind: type, same_draws: bool
) -> None:
    plain = copy.deepcopy(vae)
    plain.__class__ = kind
    plain.mirror = {"itself": plain}
    model = patch(plain, same_draws=same_draws)
    other = COPIES[how](model)
    assert isinstance(other, kind) and isinstance(other, diffusers.AutoencoderKL)
    posterior = other.encode(images).latent_dist
    assert type(posterior) is (SameDraws if same_draws else DiagonalGaussian)
    assert torch.equal(posterior.mean, model.encode(images).latent_dist.mean)
    with torch.no_grad():
        other.quant_conv.weight.zero_()
        other.quant_conv.bias.fill_(0.5)
    assert other.encode(images).latent_dist.mean.eq(0.5).all()  # The replica encodes with its own weights.
    assert type(unpatch(other)) is kind
    assert type(other.encode(images).latent_dist) is DiagonalGaussianDistribution
    assert type(model.encode(images).latent_dist) is not DiagonalGaussianDistribution


def kind_of_posterior(model: Any, images: Tensor) -> str:
    return type(model.encode(images).latent_dist).__name__


def test_a_patched_model_reaches_other_processes(vae: Any, images: Tensor) -> None:
    model = patch(copy.deepcopy(vae))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(kind_of_posterior, (model, images)) == "DiagonalGaussian"
    calls = [joblib.delayed(kind_of_posterior)(model, images)] * 2
    assert joblib.Parallel(2)(calls) == ["DiagonalGaussian"] * 2


def test_a_patched_model_is_saved_under_its_own_name(vae: Any, images: Tensor, tmp_path: Path) -> None:
    """The patched model is saved as diffusers saves it: weights and a configuration, which any program loads without the
    patch.
    """
    from diffusers.pipelines.pipeline_loading_utils import _fetch_class_library_tuple

    model = patch(copy.deepcopy(vae))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "AutoencoderKL"
    assert _fetch_class_library_tuple(model) == ("diffusers", "AutoencoderKL")
    loaded = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    expected = loaded.encode(images).latent_dist
    assert type(expected) is DiagonalGaussianDistribution
    assert torch.equal(patch(loaded).encode(images).latent_dist.mean, expected.mean)
    assert repr(model) == repr(vae)
    assert type(model.from_config(model.config)) is type(model)


def test_malformed_arguments_are_named(vae: Any) -> None:
    with pytest.raises(TypeError, match="got Linear"):
        patch(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="not patched"):
        unpatch(vae)
    with pytest.raises(TypeError, match="got AsymmetricAutoencoderKL"):
        patch(diffusers.AsymmetricAutoencoderKL(norm_num_groups=4))

    class Encodes(Own):
        def encode(self, x: Tensor, return_dict: bool = True) -> Any:
            return super().encode(x, return_dict)

    other = copy.deepcopy(vae)
    other.__class__ = Encodes
    with pytest.raises(TypeError, match="with its own encode, got Encodes"):
        patch(other)

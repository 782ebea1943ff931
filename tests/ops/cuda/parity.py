"""The checks of the CUDA backend, on a GPU or emulated, as ``device`` says."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from betavae_fast.noise import make_rng, normals
from betavae_fast.ops.reductions import REDUCTIONS
from tests.budget import Budget, exact_latent, plain_latent
from tests.layouts import LAYOUTS, dense, fits, lay_out

FIRST_ROW = 4
ANY = (-math.inf, math.inf)
# A CTA gets some tiles, all tiles of a panel, or one tile, the default with so few.
CUTS = (
    {"enough_ctas": 2, "most_tiles": 3},
    {"enough_ctas": 1, "most_tiles": 1 << 20},
    {"enough_ctas": 1, "most_tiles": 1},
)


def ops():
    return torch.ops.betavae_fast


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int = 0) -> tuple[Tensor, ...]:
    """The tensors mu, logvar and grad_z."""
    generator = torch.Generator().manual_seed(seed)
    mu, logvar, grad_z = (torch.randn(shape, generator=generator) for _ in range(3))
    return tuple(x.to(device, dtype) for x in (mu, 2 * logvar, grad_z))


def check_parity(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    reduction: str,
    device: str,
    layouts: tuple[str, ...] = LAYOUTS,
) -> None:
    """Compare z, KL and both gradients with float64, in every layout, each with its own numbers."""
    mode = REDUCTIONS[reduction]
    budgets = [Budget() for _ in range(4)]
    for seed, layout in enumerate(name for name in layouts if fits(name, len(shape))):
        mu, logvar, grad_z = lay_out(layout, *inputs(shape, dtype, device, seed))
        rng = make_rng(device, seed=seed)
        z, kl = ops().latent_forward_cuda(mu, logvar, rng, None, FIRST_ROW, *ANY, mode)
        grad_kl = torch.linspace(-1, 1, kl.numel(), device=device).view(kl.shape)
        grads = ops().latent_backward_cuda(
            grad_z, grad_kl, mu, logvar, rng, None, FIRST_ROW, *ANY, mode, True, True
        )
        eps = normals(rng.cpu(), FIRST_ROW * shape[1:].numel(), shape.numel()).view(shape)
        host = [dense(x).cpu() for x in (mu, logvar, eps, grad_z, grad_kl)]
        exact, plain = exact_latent(*host, reduction), plain_latent(*host, reduction)
        for budget, actual, e, p in zip(budgets, (z, kl, *grads), exact, plain, strict=True):
            budget.add(actual.cpu(), e, p)
    for budget, what in zip(budgets, ("z", "kl", "grad_mu", "grad_logvar"), strict=True):
        budget.check(f"{what} {tuple(shape)} {dtype} {reduction}")


def check_bits_do_not_depend_on_layout(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    for layout in (name for name in LAYOUTS if fits(name, len(shape))):
        mu, logvar, _ = lay_out(layout, *inputs(shape, dtype, device))
        rng = make_rng(device, seed=5)
        for mode in REDUCTIONS.values():
            laid = ops().latent_forward_cuda(mu, logvar, rng, None, 0, *ANY, mode)
            flat = ops().latent_forward_cuda(dense(mu), dense(logvar), rng, None, 0, *ANY, mode)
            again = ops().latent_kl_cuda(mu, logvar, *ANY, mode)
            assert torch.equal(laid[0], flat[0]) and torch.equal(laid[1], flat[1]), (layout, mode)
            assert torch.equal(laid[1], again), (layout, mode)


def check_shards(shape: tuple[int, ...], device: str) -> None:
    """Check that shards draw the noise of the whole batch and give the bits of its rows."""
    mu, logvar, _ = inputs(shape, torch.float32, device)
    rng = make_rng(device, seed=5)
    whole = ops().latent_forward_cuda(mu, logvar, rng, None, 0, *ANY, REDUCTIONS["sample"])
    for cut in range(1, shape[0], max(1, shape[0] // 5)):
        parts = [
            ops().latent_forward_cuda(m, v, rng, None, row, *ANY, REDUCTIONS["sample"])
            for m, v, row in ((mu[:cut], logvar[:cut], 0), (mu[cut:], logvar[cut:], cut))
        ]
        assert torch.equal(torch.cat([z for z, _ in parts]), whole[0]), cut
        assert torch.equal(torch.cat([kl for _, kl in parts]), whole[1]), cut


def check_noise_bits(rows: int, cols: int, device: str) -> None:
    """Check that with mu = 0 and log sigma^2 = 0, z is the noise of the contract, bit for bit."""
    zero = torch.zeros(rows, cols, device=device)
    rng = make_rng(device, seed=-3)
    z = ops().latent_sample_cuda(zero, zero, rng, None, 0, *ANY)
    assert torch.equal(z.cpu().flatten(), normals(rng.cpu(), 0, rows * cols))


def check_clamp(device: str) -> None:
    """Check that the gradient is 0 where log sigma^2 was clamped, and that NaN stays NaN."""
    logvar = torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0, math.nan, math.inf, -math.inf]], device=device)
    mu, rng = torch.ones_like(logvar), make_rng(device, seed=1)
    grad = torch.ones_like(mu)
    z, kl = ops().latent_forward_cuda(mu, logvar, rng, None, 0, -1.0, 1.0, REDUCTIONS["none"])
    _, grad_logvar = ops().latent_backward_cuda(
        grad, grad, mu, logvar, rng, None, 0, -1.0, 1.0, 0, False, True
    )
    assert (grad_logvar == 0).tolist() == [[True, False, False, False, True, False, True, True]]
    assert (
        z.isnan().tolist()
        == kl.isnan().tolist()
        == grad_logvar.isnan().tolist()
        == [[i == 5 for i in range(8)]]
    )


def check_only_needed_gradients(device: str) -> None:
    mu, logvar, grad_z = inputs((6, 10), torch.float32, device)
    rng, grad_kl = make_rng(device, seed=1), torch.ones(10, device=device)
    for grads in ((grad_z, grad_kl), (grad_z, None), (None, grad_kl)):
        both = ops().latent_backward_cuda(*grads, mu, logvar, rng, None, 0, *ANY, 1, True, True)
        for need in ((True, False), (False, True)):
            some = ops().latent_backward_cuda(*grads, mu, logvar, rng, None, 0, *ANY, 1, *need)
            for wanted, one, full in zip(need, some, both, strict=True):
                assert torch.equal(one, full) if wanted else one.numel() == 0


def check_packed_gradient(device: str) -> None:
    """Check that the packed gradient has the bits of the two gradients, in the memory format of the parameters."""
    grad_kl = torch.linspace(-1, 1, 6, device=device)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        mu, logvar, grad_z = inputs((6, 4, 5, 8), torch.float32, device)
        packed = torch.cat((mu, logvar), 1).contiguous(memory_format=memory_format)
        rest = (make_rng(device, seed=1), None, FIRST_ROW, *ANY, REDUCTIONS["sample"])
        grad = ops().latent_backward_packed_cuda(grad_z, grad_kl, packed, *rest)
        apart = ops().latent_backward_cuda(grad_z, grad_kl, *packed.chunk(2, 1), *rest, True, True)
        assert torch.equal(grad, torch.cat(apart, 1)) and grad.stride() == packed.stride()


def check_empty(device: str) -> None:
    for shape in ((0, 10), (4, 0), (0, 0)):
        x, rng = torch.empty(shape, device=device), make_rng(device, seed=1)
        for name, mode in REDUCTIONS.items():
            z, kl = ops().latent_forward_cuda(x, x, rng, None, 0, *ANY, mode)
            expected = ops().latent_kl_reference(x.cpu(), x.cpu(), *ANY, mode)
            assert z.shape == x.shape and kl.shape == expected.shape, name
            torch.testing.assert_close(kl.cpu(), expected, equal_nan=True)

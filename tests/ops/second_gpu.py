"""The check of a backend on a GPU that is not the current one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from betavae_fast import gaussian_kl, reparameterize_kl
from betavae_fast.ops.backends import Backend

needed = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def check(backend: Backend) -> None:
    """Check that tensors on the second GPU are computed there, on its current stream, while the first GPU is the current
    device.
    """
    inputs = torch.randn(2, 1000, 10)

    def there_and_back(device: str) -> tuple[Tensor, ...]:
        mu, logvar = (x.to(device).requires_grad_() for x in inputs)
        outputs = reparameterize_kl(mu, logvar, seed=3, backend=backend)
        return (*outputs, *torch.autograd.grad(outputs, (mu, logvar), [torch.ones_like(x) for x in outputs]))

    with torch.cuda.device(0):
        first, second = there_and_back("cuda:0"), there_and_back("cuda:1")
        assert torch.cuda.current_device() == 0
        assert all(x.device == torch.device("cuda:1") for x in second)
        assert all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(first, second, strict=True))
    mu, stream = torch.zeros(1 << 20, 16, device="cuda:1"), torch.cuda.Stream("cuda:1")
    logvar = torch.zeros_like(mu)
    torch.cuda.synchronize("cuda:1")
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        mu.fill_(2.0)
        with torch.cuda.device(0):
            kl = gaussian_kl(mu, logvar, reduction="batchmean", backend=backend)
    stream.synchronize()
    assert kl.item() == 32.0

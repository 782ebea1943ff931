"""The number of images that fit, and their division among processes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from betavae_fast.data import ByteImages
from betavae_fast.training import batch_size
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.state import prepare

CONFIG = TrainConfig(batch_size="auto", device="cpu", latent_dim=3, precision="fp32")


@pytest.fixture
def many():
    return ByteImages("many", torch.zeros(5000, 1, 8, 8, dtype=torch.uint8), (1, 8, 8))


@pytest.mark.parametrize("limit, most, expected", [(100, 1000, 64), (64, 1000, 64), (100, 63, 32), (1, 9, 1)])
def test_the_largest_power_of_two(limit, most, expected):
    assert batch_size.largest_power_of_two(lambda rows: rows <= limit, most) == expected


def test_nothing_fits():
    assert batch_size.largest_power_of_two(lambda rows: False, most=8) == 0


def test_the_data_set_caps_it(many):
    assert prepare(CONFIG, many).config.batch_size == 4096
    state = prepare(replace(CONFIG, accumulate=3), many)
    assert (state.config.batch_size, state.rows) == (3 * 1024, 1024)


def test_a_quarter_of_the_memory_is_a_quarter_of_the_batch_and_larger_images_are_fewer(many, monkeypatch):
    def chosen(dataset, memory):
        monkeypatch.setattr(batch_size, "available_memory", lambda: memory)
        return prepare(CONFIG, dataset).config.batch_size

    enough = 64_000_000
    assert 64 <= chosen(many, enough) < 4096
    assert chosen(many, enough // 4) == chosen(many, enough) // 4
    larger = ByteImages("larger", torch.zeros(5000, 1, 32, 32, dtype=torch.uint8), (1, 32, 32))
    assert chosen(larger, enough) < chosen(many, enough)
    with pytest.raises(ValueError, match="batch_size auto: not one image"):
        chosen(many, 1000)


def test_what_is_measured_is_what_the_network_keeps(many):
    """One Linear keeps its input, and the gradient of its output needs no more, so the bytes are known."""
    layer = torch.nn.Linear(100, 10)

    def trial(rows):
        layer(torch.ones(rows, 100)).sum().backward()

    assert batch_size._saved_bytes(trial, 8, layer) == 8 * 100 * 4


def test_the_choice_leaves_no_trace(many):
    chosen, given = prepare(CONFIG, many), prepare(replace(CONFIG, batch_size=4096), many)
    assert chosen.config == given.config
    for a, b in zip(chosen.model.parameters(), given.model.parameters(), strict=True):
        assert torch.equal(a, b) and a.grad is None


@pytest.fixture
def gpu(monkeypatch):
    """Pretend to be a GPU with memory for everything, in the properties that the choice reads."""
    for name, answer in (
        ("mem_get_info", (1 << 30, 1 << 30)),
        ("memory_reserved", 0),
        ("max_memory_reserved", 0),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    return torch.device("cuda")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_more_elements_than_cudnn_takes_do_not_fit_either(gpu, error):
    """cuDNN reports this by an error without a class of its own."""

    def trial(rows):
        if rows > 20:
            raise error("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")

    assert batch_size.largest_power_of_two(lambda rows: batch_size._fits_on_gpu(trial, rows, gpu), 1000) == 16


def test_what_is_wrong_with_one_image_is_no_matter_of_memory(gpu):
    def trial(rows):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        batch_size._fits_on_gpu(trial, 1, gpu)


def test_a_backward_pass_without_enough_memory_leaves_no_gradient(many):
    state = prepare(replace(CONFIG, batch_size=64), many)

    def out_of_memory(gradient):
        raise torch.OutOfMemoryError

    # Backward reaches the first layer last.
    next(state.model.parameters()).register_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        batch_size.largest_batch_size(
            state.model, state.reconstruction, state.dataset, precision=torch.float32, accumulate=1, most=64
        )
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_a_batch_that_does_not_split_is_named(dataset):
    with pytest.raises(
        ValueError, match="batch_size 10 does not split into 1 processes × 4 accumulated parts"
    ):
        prepare(replace(CONFIG, batch_size=10, accumulate=4), dataset)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_what_fits(many):
    images = many.store.repeat(200, 1, 1, 1)
    state = prepare(replace(CONFIG, device="cuda"), ByteImages("more", images, (1, 8, 8)))
    assert state.rows >= 4096 and state.rows & (state.rows - 1) == 0
    torch.cuda.empty_cache()
    state.model(state.dataset.gather(torch.zeros(state.rows, dtype=torch.int64, device="cuda")), seed=0)

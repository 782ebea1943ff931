"""Gathering, moving and averaging of images, for both stores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from betavae_fast.data import BinaryImages, ByteImages, ImageDataset
from betavae_fast.data.bits import pack_bits


def binary(pixels: torch.Tensor) -> BinaryImages:
    channels, height, width = pixels.shape[1:]
    return BinaryImages("binary", torch.from_numpy(pack_bits(pixels.numpy())), (channels, height, width))


def random_pair(
    seed: int, count: int, shape: tuple[int, int, int]
) -> list[tuple[ImageDataset, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    bytes_ = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    bits = bytes_ > 127
    return [(binary(bits), bits), (ByteImages("bytes", bytes_, shape), bytes_)]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 30),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
    batch=st.integers(0, 40),
)
def test_gather_returns_exactly_the_images_asked_for(
    seed: int, count: int, shape: tuple[int, int, int], batch: int
) -> None:
    indices = torch.randint(0, count, (batch,), generator=torch.Generator().manual_seed(seed))
    for dataset, pixels in random_pair(seed, count, shape):
        gathered = dataset.gather(indices)
        assert gathered.dtype == pixels.dtype
        assert torch.equal(gathered, pixels[indices])
        in_channels_last = isinstance(dataset, ByteImages) and shape[0] > 1
        order = torch.channels_last if in_channels_last else torch.contiguous_format
        assert gathered.is_contiguous(memory_format=order)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_colour_is_the_same_data_however_it_was_given(memory_format: torch.memory_format) -> None:
    """Sums, the bytes of the identity and the pixels depend on the position, not on the memory layout."""
    for channels in (1, 3):
        pixels = random_pair(1, 7, (channels, 5, 4))[1][1]
        dataset = ByteImages("colour", pixels.contiguous(memory_format=memory_format), (channels, 5, 4))
        assert torch.equal(dataset.store, pixels)
        assert dataset.canonical_bytes(1, 6).tobytes() == pixels[1:6].numpy().tobytes()
        expected = (pixels.double().mean(0) / 255).float()
        torch.testing.assert_close(dataset.mean_image(), expected, rtol=2e-7, atol=0)
        assert dataset.mean_image().is_contiguous()
        # torch can describe a single channel in either memory format, and chooses convolutions by the format.
        strides = dataset.gather(torch.arange(7)).stride()
        assert strides == ((20, 20, 4, 1) if channels == 1 else (60, 1, 12, 3))


@pytest.mark.parametrize("count", [1, 254, 255, 256, 3 * 255 + 7, 32 * 255 + 300])
def test_mean_image_is_exact_across_the_blocks_it_is_summed_in(count: int) -> None:
    for dataset, pixels in random_pair(count, count, (1, 3, 5)):
        scale = 1 if pixels.dtype == torch.bool else 255
        expected = (pixels.double().mean(0) / scale).float()
        torch.testing.assert_close(dataset.mean_image(), expected, rtol=2e-7, atol=0)


def test_mean_image_of_full_images_does_not_overflow() -> None:
    assert torch.equal(binary(torch.ones(1000, 1, 2, 8, dtype=torch.bool)).mean_image(), torch.ones(1, 2, 8))
    full = torch.full((5000, 1, 1, 2), 255, dtype=torch.uint8)
    assert torch.equal(ByteImages("full", full, (1, 1, 2)).mean_image(), torch.ones(1, 1, 2))


@pytest.mark.parametrize(
    "dataset", [pair[0] for pair in random_pair(0, 10, (1, 4, 4))], ids=["bits", "bytes"]
)
@pytest.mark.parametrize(
    ("indices", "error", "told"),
    [
        (torch.tensor([0, 10]), IndexError, "index 10 is out of range"),
        (torch.tensor([3, -1]), IndexError, "index -1 is out of range"),
        (torch.tensor([2**40]), IndexError, str(2**40)),
        (torch.tensor([0], dtype=torch.int32), TypeError, "torch.int32"),
        (torch.tensor([0.0]), TypeError, "torch.float32"),
        (torch.tensor([True]), TypeError, "torch.bool"),
        ([0, 1], TypeError, "list"),
        (np.array([0]), TypeError, "ndarray"),
        (torch.tensor(0), ValueError, r"shape \(\)"),
        (torch.zeros(2, 2, dtype=torch.int64), ValueError, r"shape \(2, 2\)"),
        (torch.zeros(2, dtype=torch.int64, device="meta"), ValueError, "meta"),
    ],
    ids=str,
)
def test_wrong_indices_are_refused_with_the_offending_value(
    dataset: ImageDataset, indices: object, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        dataset.gather(indices)  # type: ignore[arg-type]


def test_moving_to_another_device_moves_everything_gather_needs() -> None:
    for dataset, _ in random_pair(0, 10, (1, 4, 4)):
        moved = dataset.to("meta")
        assert type(moved) is type(dataset)
        assert moved.device.type == "meta"
        assert dataset.device.type == "cpu", "the original stays on its device"
        assert moved.gather(torch.zeros(3, dtype=torch.int64, device="meta")).shape == (3, 1, 4, 4)


def test_repr_names_the_data() -> None:
    assert repr(random_pair(0, 10, (1, 4, 5))[0][0]) == "BinaryImages('binary', 10 images of 1×4×5, on cpu)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gather_on_the_gpu_equals_the_cpu_and_fits_a_graph() -> None:
    indices = torch.randint(0, 500, (64,))
    for dataset, pixels in random_pair(0, 500, (1, 8, 8)):
        on_gpu, where = dataset.to("cuda"), indices.cuda()
        assert torch.equal(on_gpu.gather(where).cpu(), pixels[indices])
        torch.testing.assert_close(on_gpu.mean_image().cpu(), dataset.mean_image(), rtol=0, atol=0)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = on_gpu.gather(where)
        where.copy_(indices.flip(0))
        graph.replay()
        assert torch.equal(captured.cpu(), pixels[indices.flip(0)])

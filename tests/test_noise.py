"""The noise contract: Philox words, the normals made of them, and their statistics.

The expected values come from Philox written again in Python integers, and from float64 mathematics.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from betavae_fast import noise, reparameterize_kl
from betavae_fast.noise import make_rng, normals, philox
from betavae_fast.ops.eager import noise as eager_noise
from tests.training.recording import Recording

MASK = 0xFFFFFFFF
PRECISION = 2e-6  # largest error of a normal, by contract


def philox4x32_10(counter: list[int], key: list[int]) -> list[int]:
    """Philox by Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3, in Python integers."""
    for i in range(10):
        k0, k1 = (key[0] + i * 0x9E3779B9) & MASK, (key[1] + i * 0xBB67AE85) & MASK
        high0, low0 = divmod(0xD2511F53 * counter[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 1 << 32)
        counter = [high1 ^ counter[1] ^ k0, low1, high0 ^ counter[3] ^ k1, low0]
    return counter


def signed(low: int, high: int) -> int:
    """Combine two words into the value of an int64."""
    return int.from_bytes((low | high << 32).to_bytes(8, "little"), "little", signed=True)


def exact_normals(words: np.ndarray) -> np.ndarray:
    """Compute elements 4b … 4b + 3 from the four words of each block b in float64, by the contract's definition."""
    a, b = words.astype(np.int64)[:, 0::2], words.astype(np.int64)[:, 1::2]
    radius = np.sqrt(-2 * np.log(((a >> 8) + 1) * 2.0**-24))
    fraction = (b >> 6) & 0xFFFFFF
    t = np.where(fraction < 1 << 23, fraction, fraction - (1 << 24)) * 2.0**-24
    angle = ((b >> 30) + t) * np.pi / 2
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), -1).reshape(len(words), 4)


def expected_normals(seed: int, stream: int, elements: range) -> np.ndarray:
    """The sequence as the contract defines it, one Python integer at a time."""
    key = [seed & MASK, seed >> 32 & MASK]
    blocks = range(elements[0] // 4, elements[-1] // 4 + 1)
    words = [
        philox4x32_10([b & MASK, b >> 32 & MASK, stream & MASK, stream >> 32 & MASK], key) for b in blocks
    ]
    first = elements[0] % 4
    return exact_normals(np.array(words)).ravel()[first : first + len(elements)]


def box_muller(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """``noise.box_muller``, whose bits the eager backend must have."""
    expected = noise.box_muller(radius_word, angle_word)
    words = (x.numpy().view(np.uint64) for x in (radius_word, angle_word))
    found = [torch.empty_like(x) for x in expected]
    eager_noise.box_muller(*words, *(x.numpy() for x in found))
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x.view(torch.int32), y.view(torch.int32))
    return expected


# The known answers of Random123 for philox4x32 with 10 rounds: counter, key, words.
KNOWN_ANSWERS = {
    "zeros": ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
}


@pytest.mark.parametrize("counter, key, words", KNOWN_ANSWERS.values(), ids=KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: str, key: str, words: str) -> None:
    """Another generator, number of rounds or order of words would pass every statistical test below."""
    c, k, expected = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    assert philox4x32_10(c, k) == expected
    rng = torch.tensor([signed(*k), signed(*c[2:])])
    assert philox(rng, torch.tensor(signed(*c[:2]))).tolist() == expected


def test_philox_puts_seed_stream_and_block_where_the_contract_says() -> None:
    """A swapped half or a product that overflows would be seen with arbitrary words."""
    words = np.random.default_rng(0).integers(0, 1 << 32, (200, 6)).tolist()
    for b0, b1, s0, s1, k0, k1 in words:
        rng = torch.tensor([signed(k0, k1), signed(s0, s1)])
        assert philox(rng, torch.tensor(signed(b0, b1))).tolist() == philox4x32_10([b0, b1, s0, s1], [k0, k1])


def test_every_normal_is_within_2e_6_of_exact(threads: None) -> None:
    """The test covers all 2²⁴ radii and all 2²⁴ angles of a quadrant, so no polynomial can be bad anywhere.

    The error of a normal r·c, with c a cosine or sine, is at most δr + r δc plus its own rounding.The angle 0, where c is
    1, shows the error of the radius. A radius that is a power of two makes the product exact and shows the error of c.
    """
    # One thread with chunks that stay in the cache is five times faster than all numbers at once.
    chunks = [torch.arange(start, start + (1 << 16)) for start in range(0, 1 << 24, 1 << 16)]
    zero = torch.zeros_like(chunks[0])
    torch.set_num_threads(1)
    power, power_radius = 0, 0.0
    for index in chunks:
        radius, other = box_muller(index << 8, zero)
        assert not other.any()
        if not power and len(found := (torch.frexp(radius).mantissa == 0.5).nonzero()):
            power, power_radius = int(index[found[0]]), float(radius[found[0]])
    trigonometric_error = 0.0
    for index in chunks:
        t = torch.where(index < 1 << 23, index, index - (1 << 24)).double() * (2.0**-24 * math.pi / 2)
        for scaled, exact in zip(
            box_muller(zero + (power << 8), index << 6), (t.cos(), t.sin()), strict=True
        ):
            error = (scaled / power_radius - exact).abs().max()
            trigonometric_error = max(trigonometric_error, float(error))
    for index in chunks:
        radius = box_muller(index << 8, zero)[0].double()
        radius_error = (radius - torch.sqrt(-2 * torch.log((index + 1).double() * 2.0**-24))).abs()
        half_ulp = torch.ldexp(torch.ones_like(radius), torch.frexp(radius).exponent - 25)
        assert float((radius_error + radius * trigonometric_error + half_ulp).max()) <= PRECISION


def test_quadrants_turn_the_angle() -> None:
    """The test finds a wrong sign or a swapped pair in one quadrant."""
    words = torch.from_numpy(np.random.default_rng(1).integers(0, 1 << 32, (1 << 12, 4)))
    first, second = box_muller(words[:, 0::2], words[:, 1::2])
    actual = torch.stack((first, second), -1).flatten(1).double().numpy()
    assert np.abs(actual - exact_normals(words.numpy())).max() <= PRECISION


@pytest.mark.parametrize("word", [0, 0xFF, MASK, MASK - 255, 0x80000000, 0x20000000, 0x1FFFFFC0, 0x3FFFFFFF])
def test_extreme_words_give_finite_normals(word: int) -> None:
    """The extremes are u = 1 (radius 0), the smallest u (radius 5.77) and the seams between quadrants."""
    others = np.array([0, MASK, 0x1FFFFFFF, 0x20000000, 0x7FFFFFFF, 0xC0000000, word])
    for pair in ((np.full(7, word), others), (others, np.full(7, word))):
        x, y = box_muller(*map(torch.from_numpy, pair))
        exact = exact_normals(np.stack(pair * 2, -1))[:, :2]
        assert np.abs(torch.stack((x, y), -1).double().numpy() - exact).max() <= PRECISION


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, 7, 2**32 - 3, 2**33 - 1, 2**34 - 6, 2**34 + 1, 2**62 + 5])
@pytest.mark.parametrize("count", [1, 2, 5, 23])
def test_normals_follow_the_contract_from_any_element(first: int, count: int) -> None:
    """The windows start inside a block, or where an element or block index exceeds 32 bits."""
    seed, stream = 0x123456789ABCDEF, 0xFEDCBA987654321
    actual = normals(torch.tensor([seed, stream]), first, count)
    assert actual.dtype == torch.float32 and actual.shape == (count,)
    exact = expected_normals(seed, stream, range(first, first + count))
    assert np.abs(actual.double().numpy() - exact).max() <= PRECISION
    assert torch.equal(eager_noise.normals(torch.tensor([seed, stream]), first, count), actual)


def test_normals_of_no_elements() -> None:
    for draw in (normals, eager_noise.normals):
        assert draw(make_rng("cpu", seed=1), 3, 0).shape == (0,)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 3, 2**34 - 70_001])
def test_the_eager_backend_draws_the_contract_s_normals_in_any_number_of_threads(
    number: int, first: int, threads: None
) -> None:
    """The sizes give each thread several groups and leave an odd rest."""
    torch.set_num_threads(number)
    count = 4 * 3 * max(eager_noise.BLOCKS_A_THREAD, 2 * eager_noise.BLOCKS_AT_ONCE) + 7
    assert torch.equal(
        eager_noise.normals(torch.tensor([-5, 2**62]), first, count),
        normals(torch.tensor([-5, 2**62]), first, count),
    )


@pytest.fixture(scope="module")
def sample() -> Tensor:
    return normals(torch.tensor([2024, 11]), 0, 1 << 19).double()


def test_normals_have_a_standard_normal_s_moments(sample: Tensor) -> None:
    """The test finds a wrong scale, a shift or a lost tail."""
    n = sample.numel()
    # Each moment of n draws scatters by sqrt((E x^2k - (E x^k)^2) / n).
    for k, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (5, 0, 945), (6, 15, 10170)):
        assert abs(float((sample**k).mean()) - expected) < 4 * math.sqrt(variance / n), f"moment {k}"
    assert 4.5 < float(sample.abs().max()) <= math.sqrt(48 * math.log(2)) + PRECISION


def test_normals_have_a_standard_normal_s_distribution(sample: Tensor) -> None:
    """The Kolmogorov–Smirnov distance exceeds 1.95/√n once in a thousand correct samples."""
    n = sample.numel()
    for name, x in {"all": sample, **{f"word {j}": sample[j::4] for j in range(4)}}.items():
        cdf = torch.special.ndtr(x.sort().values)
        steps = torch.arange(x.numel() + 1, dtype=torch.float64) / x.numel()
        distance = max(float((steps[1:] - cdf).max()), float((cdf - steps[:-1]).max()))
        assert distance < 1.95 / math.sqrt(x.numel()), name
    for k in (3.0, 4.0):
        tail = 2 * float(torch.special.ndtr(torch.tensor(-k, dtype=torch.float64)))
        assert abs(int((sample.abs() > k).sum()) - n * tail) < 4 * math.sqrt(n * tail), f"beyond {k} sigma"


def test_neighbouring_normals_are_independent(sample: Tensor) -> None:
    """A pair shares its radius, which must not be seen: neither values nor magnitudes correlate."""
    for lag in (1, 2, 3, 4, 5, 8, 16, 128):
        for name, x in (("values", sample), ("squares", (sample**2 - 1) / math.sqrt(2))):
            correlation = float((x[:-lag] * x[lag:]).mean())
            assert abs(correlation) < 4 / math.sqrt(x.numel() - lag), f"{name} at lag {lag}"


def test_seeds_and_streams_that_differ_by_one_bit_share_nothing() -> None:
    """Every bit of both numbers matters, and so does their order."""
    n = 1 << 10
    pairs = [(0, 0), *((signed(*divmod(1 << b, 1 << 32)[::-1]), 0) for b in range(64))]
    pairs += [(s, k) for k, s in pairs[1:]] + [(3, 5), (5, 3)]
    x = torch.stack([normals(torch.tensor(pair), 0, n) for pair in pairs]).double()
    correlation = (x @ x.T / n).fill_diagonal_(0)
    # The largest of 8,515 correct correlations stays below 5 / sqrt(n) 199 times in 200.
    assert float(correlation.abs().max()) < 5 / math.sqrt(n)
    assert x.unique().numel() > 0.99 * x.numel()


@pytest.mark.parametrize(
    "seed, stored",
    [
        (0, 0),
        (7, 7),
        (-1, -1),
        (2**63 - 1, 2**63 - 1),
        (2**63, -(2**63)),
        (2**64 - 1, -1),
        (-(2**63), -(2**63)),
    ],
)
def test_an_int_seed_is_its_64_bits_with_stream_0(seed: int, stored: int) -> None:
    assert make_rng("cpu", seed=seed).tolist() == [stored, 0]


def test_an_int_seed_needs_nothing_that_a_cuda_graph_cannot_hold() -> None:
    """A graph cannot hold a copy from the host's memory, for which the stream of a GPU would stop, too."""
    moments = torch.zeros(4, 3)
    with Recording():
        reparameterize_kl(moments, moments, seed=7)


def test_a_seed_tensor_is_passed_on_unread() -> None:
    """A copy would freeze the value that each replay of a CUDA graph must read."""
    pair = torch.tensor([1, 2])
    assert make_rng("cpu", seed=pair) is pair


def test_without_a_seed_torch_manual_seed_or_the_generator_governs() -> None:
    torch.manual_seed(5)
    first, second = make_rng("cpu"), make_rng("cpu")
    torch.manual_seed(5)
    assert torch.equal(make_rng("cpu"), first) and not torch.equal(first, second)
    own = torch.Generator().manual_seed(5)
    assert torch.equal(make_rng("cpu", generator=own), first)
    assert torch.equal(make_rng("cpu"), second), "a generator of the caller must not change torch's"


def test_drawn_pairs_use_many_bits_of_seed_and_stream() -> None:
    """31-bit seeds would collide after 50,000 steps."""
    torch.manual_seed(0)
    drawn = torch.stack([make_rng("cpu") for _ in range(256)]).numpy().view(np.uint64)
    for bit in range(62):
        share = (drawn >> np.uint64(bit) & np.uint64(1)).mean(0)
        assert (abs(share - 0.5) < 0.25).all(), f"bit {bit}"

"""Changes of the codes that leave a score the same to the last bit, or at least do not break it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from betavae_fast.evaluation.metrics import factor_vae_score, udr_scores
from tests.evaluation.metrics.known import SMALL, WITH_FACTORS, entangled, grid, noise, numbers, perfect

FACTORS = grid(rows=600)
EXACT_ORDER = ["factor_vae", "mig", "modularity", "irs", "sap"]
EXACT_SIGN = ["beta_vae", "factor_vae", "mig", "modularity", "irs"]
EXACT_SCALE = ["mig", "modularity", "explicitness", "dci"]

seeds = st.integers(0, 2**32)
few = settings(derandomize=True, max_examples=8, deadline=None)


@pytest.mark.parametrize("name", EXACT_ORDER)
@few
@given(seed=seeds, order=st.permutations(range(6)))
def test_order_of_latents(name, seed, order):
    codes = entangled(FACTORS, seed=seed)
    assert numbers(name, codes[:, order], FACTORS) == numbers(name, codes, FACTORS)


@pytest.mark.parametrize("name", EXACT_SIGN)
@few
@given(seed=seeds, signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=6, max_size=6))
def test_sign_of_latents(name, seed, signs):
    codes = entangled(FACTORS, seed=seed)
    assert numbers(name, codes * signs, FACTORS) == numbers(name, codes, FACTORS)


exponents = st.lists(st.integers(-20, 20), min_size=6, max_size=6)


@pytest.mark.parametrize("name", EXACT_SCALE)
@few
@given(seed=seeds, exponents=exponents)
def test_scale_of_latents(name, seed, exponents):
    codes = entangled(FACTORS, seed=seed)
    if name == "dci":  # trees treat values closer than 1e-7 as equal
        exponents = np.abs(exponents)
    assert numbers(name, codes * np.exp2(exponents), FACTORS) == numbers(name, codes, FACTORS)


@few
@given(seed=seeds, exponents=exponents)
def test_scale_of_latents_where_only_some_scores_or_settings_allow_it(seed, exponents):
    codes = entangled(FACTORS, seed=seed)
    scaled = codes * np.exp2(exponents)

    def factor_vae(codes):
        return factor_vae_score(
            codes, FACTORS, np.random.default_rng(0), num_train=300, num_test=200, threshold=0
        )

    assert factor_vae(scaled).score == factor_vae(codes).score
    for name in ("gaussian_total_correlation", "mutual_information_score"):
        assert numbers("unsupervised", scaled, FACTORS)[name] == numbers("unsupervised", codes, FACTORS)[name]
    assert numbers("irs", codes * 2.0 ** exponents[0], FACTORS) == numbers("irs", codes, FACTORS)
    kl = [np.ones(6)] * 2
    for correlation in ("lasso", "spearman"):
        plain, same = (
            udr_scores([codes, other], kl, np.random.default_rng(0), correlation=correlation)
            for other in (codes[:, ::-1], scaled[:, ::-1])
        )
        assert np.array_equal(plain.scores, same.scores)


@pytest.mark.parametrize("name", ["beta_vae", "explicitness", "unsupervised"])
@few
@given(seed=seeds, order=st.permutations(range(6)))
def test_order_and_sign_up_to_rounding(name, seed, order):
    codes = entangled(FACTORS, seed=seed)
    expected = numbers(name, codes, FACTORS)
    tolerance = 0.02 if name == "beta_vae" else 1e-3 if name == "explicitness" else 1e-9
    assert numbers(name, -codes[:, order], FACTORS) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_names_of_classes(name):
    codes = entangled(FACTORS)
    assert numbers(name, codes, FACTORS * 2**33 - 10**6) == numbers(name, codes, FACTORS)


@pytest.mark.parametrize("name", SMALL)
def test_memory_layout_and_precision_of_the_table(name):
    codes = entangled(FACTORS).astype(np.float32)
    expected = numbers(name, codes, FACTORS)
    assert numbers(name, np.asfortranarray(codes), np.asfortranarray(FACTORS)) == expected
    assert numbers(name, codes.astype(np.float64), FACTORS.astype(np.uint8)) == expected


@pytest.mark.parametrize("name", SMALL)
def test_seeds_decide(name):
    codes = entangled(FACTORS)
    assert numbers(name, codes, FACTORS, seed=1) == numbers(name, codes, FACTORS, seed=1)
    assert numbers(name, codes, FACTORS, seed=1) != numbers(name, codes, FACTORS, seed=2)


@pytest.mark.parametrize("name", SMALL)
def test_a_metric_leaves_its_arrays_alone(name):
    codes, factors = entangled(FACTORS), FACTORS.copy()
    before = codes.copy(), factors.copy()
    codes.flags.writeable = factors.flags.writeable = False
    numbers(name, codes, factors)
    assert np.array_equal(codes, before[0]) and np.array_equal(factors, before[1])


@pytest.mark.parametrize("name", ["factor_vae", "mig", "irs"])
def test_dead_latents_change_nothing(name):
    codes = entangled(FACTORS)
    dead = np.full((len(codes), 3), [0.0, 0.1, 1e8 / 3])
    assert numbers(name, np.hstack([dead, codes]), FACTORS) == numbers(name, codes, FACTORS)


def latents(kind: str) -> np.ndarray:
    return {
        "perfect and dead": np.hstack([perfect(FACTORS), np.full((len(FACTORS), 3), [0.0, 0.1, 1e3 / 3])]),
        "dead": np.full((len(FACTORS), 3), [0.0, 0.1, -7.0]),
        "nearly dead": 1e-9 * noise(3, len(FACTORS)) + [0.0, 0.1, -7.0],
        "subnormal": 1e-310 * noise(3, len(FACTORS)),
        "one": noise(1, len(FACTORS)),
        "equal": noise(1, len(FACTORS))[:, [0, 0, 0]],
        "two values": FACTORS[:, :1] // 2 * np.ones(3),
    }[kind]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "kind", ["perfect and dead", "dead", "nearly dead", "subnormal", "one", "equal", "two values"]
)
@pytest.mark.parametrize("columns", [slice(0, 1), slice(None)], ids=["one factor", "all factors"])
def test_degenerate_codes_are_scored_without_warnings(name, kind, columns):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = numbers(name, latents(kind), FACTORS[:, columns])
    if name == "unsupervised":
        singular = scores.pop("gaussian_total_correlation")
        assert singular == (np.inf if kind in ("equal", "two values") else pytest.approx(0.0, abs=0.1))
    assert all(np.isfinite(value) and 0 <= value <= 10 for value in scores.values()), scores
    if kind == "dead":
        assert {field: value for field, value in scores.items() if value != 0}.keys() <= {
            "train_accuracy",  # the accuracy of guesses
            "informativeness",
            "informativeness_train",
            "train_score",
            *(["score"] if name in ("beta_vae", "explicitness") else []),
        }

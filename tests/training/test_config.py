"""Numbers out of range are refused when they are given."""

from __future__ import annotations

import math

import pytest

from betavae_fast.training.config import TrainConfig


@pytest.mark.parametrize(
    "name, value",
    [
        ("latent_dim", 0),
        ("batch_size", -1),
        ("batch_size", "most"),
        ("accumulate", 0),
        ("beta_warmup", -1),
        ("lr_warmup", -1),
        ("lr_schedule", "sawtooth"),
        ("precision", "fp8"),
        ("clip_grad_norm", 0.0),
        ("clip_grad_norm", math.inf),
        ("steps", 0),
        ("log_every", 0),
        ("checkpoint_every", 0),
        ("threads", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("beta", -0.5),
        ("beta", math.inf),
        ("lr", 0.0),
        ("lr", math.nan),
    ],
)
def test_a_number_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*got (?:{value}|{value!r})$"):
        TrainConfig.from_entries({name: value})

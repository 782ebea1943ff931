"""The declarations of the objectives' options: the command line, the configuration and the classes agree with them."""

from __future__ import annotations

import inspect

import pytest

from betavae_fast import objectives
from betavae_fast.cli.train import train
from betavae_fast.objectives.options import (
    OBJECTIVES,
    BetaOptions,
    CapacityOptions,
    by_option,
    entries,
    make_options,
)
from betavae_fast.settings import declared
from betavae_fast.training.config import TrainConfig
from tests.objectives.cases import NAMES, NEEDED, objective


@pytest.mark.parametrize("name", NAMES)
def test_an_objective_has_the_defaults_that_are_declared(name):
    made = objective(name)
    for option, value in entries(make_options(name, NEEDED.get(name, {}))).items():
        field = by_option()[option][name].name
        assert getattr(made, field) == value
        assert inspect.signature(type(made)).parameters[field].default in (value, inspect.Parameter.empty)


def test_the_command_line_has_every_option_of_every_objective():
    parameters = inspect.signature(train).parameters
    for kind in OBJECTIVES.values():
        assert {found.option for found in declared(kind)} <= parameters.keys()


def test_no_option_has_the_name_of_a_setting():
    assert not by_option().keys() & {found.option for found in declared(TrainConfig)}


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_is_its_entries(name):
    config = TrainConfig(objective=make_options(name, NEEDED.get(name, {})), latent_dim=3)
    assert TrainConfig.from_entries(config.entries()) == config


def test_a_configuration_that_lists_the_options_of_all_objectives_is_read():
    """Earlier versions wrote such files, with None for what was not set."""
    told = {
        "objective": "capacity",
        "beta": 4.0,
        "beta_warmup": 0,
        "capacity_steps": 7,
        "capacity": None,
        "kl_limit": None,
    }
    assert TrainConfig.from_entries(told) == TrainConfig(objective=CapacityOptions(steps=7))


def test_options_are_compared_by_value_and_objectives_by_identity():
    assert BetaOptions(2.0) == BetaOptions(2.0) != BetaOptions(3.0)
    assert objectives.Beta(2.0) != objectives.Beta(2.0)
    assert len({objectives.Beta(2.0), objectives.Beta(2.0)}) == 2


@pytest.mark.parametrize("wrong", ["capacity", objectives.Beta(), BetaOptions])
def test_only_options_are_a_configuration(wrong):
    with pytest.raises(
        TypeError, match=r"^objective must be the options of one, such as BetaOptions\(\), got "
    ):
        TrainConfig(objective=wrong)


def test_annotations_of_a_subclass_are_its_own_business():
    class Mine(objectives.Beta):
        extra: NotDefined  # noqa: F821

        def __init__(self):
            super().__init__(3.0)

    assert Mine().beta == 3.0


def test_names_that_are_imported_on_use_are_listed():
    assert set(objectives.__all__) <= set(dir(objectives))

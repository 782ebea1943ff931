"""The declaration of a setting: a field of a dataclass whose annotation carries a :class:`Setting`.

The command line, the checks and the documentation read these declarations, so each setting is written once. Nothing heavy
is imported: ``--help`` needs no torch.

>>> from dataclasses import dataclass
>>> from typing import Annotated
>>> @dataclass
... class Options:
...     rate: Annotated[float, Setting("Learning rate.", positive)] = 0.1
>>> [(found.name, found.setting.help, found.default) for found in declared(Options)]
[('rate', 'Learning rate.', 0.1)]
>>> check(Options(rate=-1.0))
Traceback (most recent call last):
ValueError: rate must be a finite positive number, got -1.0
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from math import isfinite
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin, get_type_hints

from betavae_fast.choices import Likelihood

Check: TypeAlias = Callable[[str, Any], None]
"""A function of a setting's name and value that raises ValueError, with both in its message, for a value out of range."""


class Setting(NamedTuple):
    """The description of a setting, beside its type and its default."""

    help: str
    check: Check | None = None  # not asked about None where None is the default
    option: str | None = None  # name on the command line and in files, if it is not the field's
    default_in_words: str | None = None  # for the help text, where the default is None
    parse: Callable[[str, str], Any] | None = None  # makes the value from name and text; None: its type does
    metavar: str | None = None  # the form of the value, for the help text


class Declared(NamedTuple):
    """A setting as :func:`declared` finds it."""

    name: str  # of the field
    type: Any
    setting: Setting
    default: Any  # dataclasses.MISSING if the setting is required

    @property
    def option(self) -> str:
        return self.setting.option or self.name


def flag(option: str) -> str:
    """The name of an option as it is written on the command line.

    >>> flag("latent_dim")
    '--latent-dim'
    """
    return "--" + option.replace("_", "-")


def declared(kind: type) -> tuple[Declared, ...]:
    """The settings of the dataclass ``kind``, in order."""
    return _declared(kind)


@cache
def _declared(kind: type) -> tuple[Declared, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        Declared(field.name, get_args(hints[field.name])[0], setting, field.default)
        for field in fields(kind)
        if (setting := _setting(hints[field.name])) is not None
    )


def check(settings: Any, kind: type | None = None) -> None:
    """Check the values of ``settings``, an instance of a dataclass, or only those that its base class ``kind`` declares.

    Raises: ValueError, naming the setting and its value, for the first that is out of its range.
    """
    for found in declared(kind or type(settings)):
        check_value(found, found.name, getattr(settings, found.name))


def check_value(found: Declared, name: str, value: Any) -> None:
    """Check ``value`` for the setting ``found``, under ``name`` in the error.

    Raises: ValueError if it is out of range, or not one of the words that the type allows.
    """
    if value is None and found.default is None:
        return
    words = choices(found.type)
    if found.setting.check is not None:
        found.setting.check(name, value)
    elif words and value not in words:
        raise ValueError(
            f"{name} must be one of {', '.join(words)}; got {value!r}{did_you_mean(value, words)}"
        )


def did_you_mean(word: Any, words: Iterable[str]) -> str:
    """The end of an error message that asks whether one of ``words`` was meant; "" if none is close to ``word``.

    >>> did_you_mean("gausian", ["bernoulli", "gaussian"]), did_you_mean("poisson", ["bernoulli", "gaussian"])
    (", did you mean 'gaussian'?", '')
    """
    close = get_close_matches(str(word), words, 1)
    return f", did you mean {close[0]!r}?" if close else ""


def choices(kind: Any) -> tuple[Any, ...]:
    """The values that a type allows, as in Literal["a", "b"] | None; empty if it is no Literal."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    if get_origin(kind) in (Union, types.UnionType, list):
        return tuple(word for part in get_args(kind) for word in choices(part))
    return ()


def at_least(least: int) -> Check:
    """Make a check for a number of at least ``least``."""

    def check(name: str, value: Any) -> None:
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")

    return check


def noise_seed(name: str, value: int) -> None:
    """Raise ValueError unless ``value`` is a seed from 0 that the noise takes."""
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{name} must be in [0, 2^64), got {value}")


def finite(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is finite."""
    if not isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")


def not_negative(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is finite and at least 0."""
    if not (isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}")


def positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is finite and above 0."""
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite positive number, got {value}")


def check_scale(likelihood: Likelihood, scale: float) -> None:
    """Raise ValueError for a scale that is not positive, or one of a Bernoulli likelihood, which has none."""
    positive("scale", scale)
    if likelihood == "bernoulli" and scale != 1.0:
        raise ValueError(f"a Bernoulli likelihood has no scale, got scale={scale}")


def fraction(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is at least 0 and below 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def _setting(hint: Any) -> Setting | None:
    parts: Sequence[Any] = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((part for part in parts if isinstance(part, Setting)), None)

"""Doctests are collected from every module; those of adapters import the library they adapt to."""

from importlib.util import find_spec

_ADAPTERS = ("diffusers", "lightning", "pythae")

collect_ignore = [
    f"betavae_fast/integrations/{library}.py" for library in _ADAPTERS if find_spec(library) is None
]

"""The memory of the machine that a process may use."""

from __future__ import annotations

import pytest

from betavae_fast import system_memory


def test_available_memory_is_plausible():
    assert 2**26 < system_memory.available_memory() < 2**50


@pytest.mark.parametrize("limit, room", [("max", None), ("5000", 3000), ("1000", 1)])
def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch, limit, room):
    machine = system_memory.available_memory()
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("2000\n")
    monkeypatch.setattr(system_memory, "CGROUP", tmp_path)
    found = system_memory.available_memory()
    assert found == room or (room is None and found > machine / 2)


def test_where_the_system_tells_nothing_nothing_is_refused(monkeypatch):
    def unknown():
        raise ValueError("this system does not tell how much memory it has")

    monkeypatch.setattr(system_memory, "available_memory", unknown)
    system_memory.check_fits("a set", 10**18)

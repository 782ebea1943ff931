"""Ctrl-C asks for the end of a run; a second Ctrl-C ends it at once.

The tests raise signals in their own thread, because one of two signals sent to the process at once may be lost.
"""

from __future__ import annotations

import signal

import pytest

from betavae_fast.training.interrupt import stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request(number):
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert signal.getsignal(number) is before


def test_the_second_one_interrupts():
    with pytest.raises(KeyboardInterrupt), stop_on_signal():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second signal was swallowed")

"""What ends a run early: a signal, or a held-out reward that fell."""

from __future__ import annotations

import math
import signal

import pytest

from drtune.training.interrupts import Interrupts
from drtune.training.samples import last_passed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_ends_nothing(number: signal.Signals) -> None:
    with Interrupts() as interrupts:
        assert interrupts.received is None
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert interrupts.received is number


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with Interrupts(), pytest.raises(ZeroDivisionError), Interrupts():
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(
    ("held_out", "passed"),
    [
        ({0: 0.5}, 0),
        ({0: 0.5, 20: 0.75}, 20),
        ({0: 0.5, 20: 0.25}, 20),
        ({0: 0.5, 20: 0.125}, 0),
        ({0: 0.5, 20: 0.375, 40: 0.0}, 20),
        ({0: 0.5, 20: math.nan}, 0),
        ({0: math.nan, 20: 0.5}, 0),
    ],
)
def test_a_check_passes_down_to_the_largest_drop_below_the_base(held_out: dict[int, float], passed: int) -> None:
    assert last_passed(held_out, max_drop=0.25) == passed

"""Signals that ask a run to end early."""

import os
import signal

import pytest

from keepstep.trainer.recovery.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_counted_and_named_and_ends_nothing(number: signal.Signals) -> None:
    with StopSignals() as signals:
        assert (signals.count, signals.name) == (0, "")
        os.kill(os.getpid(), number)
        assert (signals.count, signals.name) == (1, number.name)


def test_what_is_to_be_done_is_called_once_a_signal() -> None:
    called: list[int] = []
    with StopSignals(lambda: called.append(1)):
        os.kill(os.getpid(), signal.SIGTERM)
    assert called == [1]


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in StopSignals.signals]
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in StopSignals.signals] == before


def test_one_request_that_comes_by_two_ways_counts_once() -> None:
    now = 0.0
    with StopSignals(clock=lambda: now) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        now = 0.5
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (signals.count, signals.name) == (1, "SIGTERM")
        now = 1.6
        os.kill(os.getpid(), signal.SIGINT)
        assert (signals.count, signals.name) == (2, "SIGINT")


@pytest.mark.parametrize(
    ("second", "is_impatient"),
    [(signal.SIGTERM, False), (signal.SIGUSR1, False), (signal.SIGINT, True)],
)
def test_only_a_person_who_asks_again_will_not_wait(
    second: signal.Signals, is_impatient: bool
) -> None:
    now = 0.0
    with StopSignals(clock=lambda: now) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        now = 2.0
        os.kill(os.getpid(), second)
        assert signals.is_impatient is is_impatient


def test_what_asks_by_other_means_counts_once_and_not_after_a_signal() -> None:
    with StopSignals() as signals:
        signals.ask("a file")
        signals.ask("another")
        assert (signals.count, signals.name) == (1, "a file")

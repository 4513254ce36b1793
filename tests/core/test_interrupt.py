"""Signals that ask for a stop."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlhive.core import interrupt
from rlhive.core.interrupt import catch_signals, hold_signals

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", ALL)
def test_a_signal_that_is_repeated_at_once_is_one_request(number):
    """As of `timeout`, which signals its child and then the group that both are in."""
    before = [signal.getsignal(one) for one in ALL]
    with catch_signals() as received:
        assert not received
        signal.raise_signal(number)
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)
        assert received == [number]
    assert [signal.getsignal(one) for one in ALL] == before


def test_later_only_ctrl_c_ends_what_goes_on(monkeypatch):
    monkeypatch.setattr(interrupt, "SAME_SECONDS", 0.0)
    with catch_signals() as received:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert received == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_key_that_is_held_down_is_one_request(monkeypatch):
    monkeypatch.setattr(interrupt, "SAME_SECONDS", 0.3)
    with catch_signals() as received:
        for _ in range(20):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.03)
        assert received == [signal.SIGINT]


@pytest.mark.parametrize("number", ALL)
def test_signals_that_are_ignored_stay_so(monkeypatch, number):
    """As by nohup, and of the background jobs of a script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with catch_signals() as received:
            signal.raise_signal(number)
            assert received == [] and signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_the_first_signal_is_answered_at_once(capfd):
    with catch_signals("stopping soon") as received:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert received and capfd.readouterr().err == "stopping soon\n"


def test_outside_the_main_thread_signals_are_left_alone():
    def catch():
        with catch_signals() as received:
            return signal.getsignal(signal.SIGTERM), received

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor() as threads:
        assert threads.submit(catch).result() == (before, [])


@pytest.mark.parametrize("number", ALL)
def test_what_arrives_while_signals_are_held_is_handled_once_and_at_the_end(number):
    before = [signal.getsignal(one) for one in ALL]
    with catch_signals() as received:
        with hold_signals():
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert received == []
        assert received == [number]
    assert [signal.getsignal(one) for one in ALL] == before


def test_held_signals_that_are_ignored_stay_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with hold_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_are_held_in_the_main_thread_alone():
    def hold():
        with hold_signals():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor() as threads:
        assert threads.submit(hold).result() == signal.getsignal(signal.SIGINT)

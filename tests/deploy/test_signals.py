"""Where signals arrive while a robot is connected: in the main thread alone, and before what a driver makes of them."""

import signal
import threading

import pytest

from rlhive.deploy import Settings, connect, run
from tests.deploy.arm import NAME, Wanting, act_on


def in_a_thread(call):
    """What `call` raises there."""
    raised = []

    def catch():
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=catch)
    thread.start()
    thread.join()
    return raised


def test_another_thread_than_the_main_one_is_refused_before_anything_moves(arm, installed, config, tmp_path):
    [error] = in_a_thread(lambda: connect(NAME, config))
    assert isinstance(error, ValueError) and str(error).startswith(
        "connect must be called in the main thread"
    )
    assert arm.homes == 0
    env = connect(NAME, config)
    [error] = in_a_thread(lambda: run(Wanting(installed, lambda _: 0.0), env, tmp_path / "out", Settings()))
    assert isinstance(error, ValueError) and str(error).startswith("run must be called in the main thread")
    assert (arm.homes, arm.commands) == (1, []) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("what", ["state", "positions"])
def test_a_signal_ends_connecting_though_the_driver_catches_it(arm, config, what, number):
    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    before = signal.signal(number, interrupt)
    try:
        act_on(arm, what, 1, lambda: signal.raise_signal(number))
        with pytest.raises(KeyboardInterrupt) as caught:
            connect(NAME, config)
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert caught.value.args == (number,)
    assert arm.homes <= 1 and arm.commands == []

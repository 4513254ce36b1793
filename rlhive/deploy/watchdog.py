"""Interrupts drivers that do not answer, by signals and a timer that they cannot swallow; main thread only."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from rlhive.core.interrupt import CAUGHT
from rlhive.deploy.drivers import in_words
from rlhive.deploy.safety import FaultError


def check_main_thread(what: str) -> None:
    """Refuses any other thread, since signals only interrupt the main one.

    Args:
        what: the caller, for the message.

    Raises:
        ValueError: called in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ValueError(f"{what} must be called in the main thread, where signals arrive")


@contextlib.contextmanager
def signals_first() -> Iterator[None]:
    """Lets Ctrl-C, SIGTERM and SIGHUP end the block with what their handlers raise; main thread only.

    RoboHive's drivers would catch that exception, and raise another or go on.
    """
    raised: list[BaseException] = []
    before: dict[int, Any] = {number: signal.getsignal(number) for number in CAUGHT}

    def receive(number: int, frame: Any) -> None:
        handler = before[number]
        assert callable(handler)
        try:
            handler(number, frame)
        except BaseException as error:
            raised.append(error)
            raise

    caught = [number for number in CAUGHT if callable(before[number])]
    try:
        for number in caught:
            signal.signal(number, receive)
        yield
    except (Exception, SystemExit):
        if not raised:
            raise
    finally:
        for number in caught:
            signal.signal(number, before[number])
    if raised:
        raise raised[0] from None


@contextlib.contextmanager
def watchdog(seconds: float, what: str) -> Iterator[None]:
    """Ends the block with a `FaultError` if it takes longer than `seconds`; main thread only.

    Keeps raising after every tenth of that time until the block ends, and once more after it, whatever the block
    raised: RoboHive's drivers catch every exception, and try again for ever or raise another.
    """
    message = f"{what} did not end within {seconds:.3f} s"
    armed, ends = True, time.monotonic() + seconds

    def stop(number: int, frame: Any) -> None:
        if armed:
            raise FaultError("robot_stalled", message)

    before = signal.signal(signal.SIGALRM, stop)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, max(seconds / 10, 0.001))
            yield
        finally:
            armed = False  # otherwise a signal in the lines below would leave the timer running
    except (Exception, SystemExit) as error:
        if time.monotonic() > ends:
            raise FaultError("robot_stalled", message) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if time.monotonic() > ends:
        raise FaultError("robot_stalled", message)


@contextlib.contextmanager
def as_fault(seconds: float, what: str) -> Iterator[None]:
    """A watchdog that also turns whatever RoboHive raises into a fault of the robot."""
    try:
        with watchdog(seconds, what):
            yield
    except FaultError:
        raise
    except (Exception, SystemExit) as error:  # some drivers call quit()
        raise FaultError("robot_failed", f"{what} failed: {in_words(error)}") from error

"""Ctrl-C, SIGTERM and SIGHUP, recorded so that a loop can check for them between two steps."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `timeout` and schedulers signal a process and then its group again, and a key that is held down repeats itself.
SAME_SECONDS = 1.0


def make_is_repeated() -> Callable[[], bool]:
    """Makes a function to call at each signal; it tells whether the signal only repeats the previous one."""
    latest = -math.inf

    def is_repeated() -> bool:
        nonlocal latest
        since, latest = time.monotonic() - latest, time.monotonic()
        return since < SAME_SECONDS

    return is_repeated


@contextlib.contextmanager
def catch_signals(answer: str = "") -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C, SIGTERM or SIGHUP arrives; ignored signals, as under nohup, stay ignored.

    Outside the main thread, which alone may catch signals, it stays empty.

    A signal within a second of the previous one counts as the same. A later Ctrl-C raises `KeyboardInterrupt`; the
    other signals never end the process.

    Args:
        answer: a line for stderr at the first signal, for loops that look at the list late.
    """
    received: list[int] = []
    is_repeated = make_is_repeated()

    def receive(number: int, frame: Any) -> None:
        if is_repeated():
            return
        received.append(number)
        if len(received) > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt
        if len(received) == 1 and answer:
            with contextlib.suppress(OSError):
                beside_bar = "\n" if os.isatty(2) else ""
                os.write(2, f"{beside_bar}{answer}\n".encode())  # sys.stderr may be in the middle of a write

    before = {number: signal.getsignal(number) for number in CAUGHT}
    is_main = threading.current_thread() is threading.main_thread()
    caught = [number for number in CAUGHT if is_main and before[number] is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number in caught:
            signal.signal(number, before[number])


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Handles the first of Ctrl-C, SIGTERM and SIGHUP that arrives in the block when the block ends.

    For C libraries that call Python and break if it raises, as a signal handler may.
    """
    held: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()  # which alone runs handlers
    before = {number: signal.getsignal(number) for number in CAUGHT} if is_main else {}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: held.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


@contextlib.contextmanager
def shield_children() -> Iterator[None]:
    """Keeps Ctrl-C, SIGTERM and SIGHUP from the processes that this thread starts in the block.

    `timeout`, schedulers and terminals send them to all processes of a command, of which the first one handles them.
    This process still gets them where it has other threads.
    """
    # Otherwise Python starts it with the first lock or process, and unblocks the signals to do so.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

"""Ctrl-C, SIGTERM and SIGHUP as something to look at between two steps."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `timeout` and schedulers signal a process and then its group again, and a key that is held down repeats itself.
SAME_SECONDS = 1.0


@contextlib.contextmanager
def catch_signals(answer: str = "") -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C, SIGTERM or SIGHUP arrives; what is ignored, as by nohup, stays so.

    What comes within a second of the one before counts as the same; Ctrl-C after that raises `KeyboardInterrupt`, the
    others never end the process.

    Args:
        answer: a line for stderr at the first signal, for loops that look at the list late.
    """
    received: list[int] = []
    latest = -math.inf

    def receive(number: int, frame: Any) -> None:
        nonlocal latest
        since, latest = time.monotonic() - latest, time.monotonic()
        if since < SAME_SECONDS:
            return
        received.append(number)
        if len(received) > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt
        if len(received) == 1 and answer:
            with contextlib.suppress(OSError):
                beside_bar = "\n" if os.isatty(2) else ""
                os.write(2, f"{beside_bar}{answer}\n".encode())  # sys.stderr may be in the middle of a write

    before = {number: signal.getsignal(number) for number in CAUGHT}
    caught = [number for number in CAUGHT if before[number] is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number in caught:
            signal.signal(number, before[number])

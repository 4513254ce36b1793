"""Makes stdout and stderr safe for a command: both exist and accept every character, and stderr never fails."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO


def prepare_streams() -> None:
    """Makes stdout and stderr exist and accept every character, and lets stderr lose its reader."""
    replace_closed_streams()
    escape_what_cannot_be_shown()
    spare_stderr()


def replace_closed_streams() -> None:
    """Gives a process started without stdout or stderr, as by `>&-`, one that discards everything.

    Python sets it to None; and the next file opened, here or in a child process, would get its number and receive
    what libraries print.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115 - open for the life of the process


def escape_what_cannot_be_shown() -> None:
    """Writes characters that stdout or stderr cannot encode, as in a directory's name, as escapes like `\\xfc`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _SparedStream:
    """Wraps a stream and drops what it cannot write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def spare_stderr() -> None:
    """Lets the command continue when stderr cannot be written: the terminal is gone, or a log's disk is full."""
    sys.stderr = _SparedStream(sys.stderr)

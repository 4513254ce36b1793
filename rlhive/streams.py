"""The stdout and stderr of a command: there, able to show every character, and no reason for it to fail."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO


def prepare_streams() -> None:
    """Stdout and stderr are there, take every character, and stderr may lose its reader."""
    replace_closed_streams()
    escape_what_cannot_be_shown()
    spare_stderr()


def replace_closed_streams() -> None:
    """Gives a process that was started without stdout or stderr, as by `>&-`, one that goes nowhere.

    Python has None in its place; and the next file that is opened, here or in a process that this one starts, would get
    its number, and what libraries print.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115 - for as long as the process lives


def escape_what_cannot_be_shown() -> None:
    """Writes characters that stdout or stderr has no code for, as of a directory's name, like `\\xfc`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _SparedStream:
    """A stream that drops what it cannot write; all else of it is the stream's."""

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
    """Lets the command go on where what it says cannot be written: the terminal is gone, the disk of a log is full."""
    sys.stderr = _SparedStream(sys.stderr)

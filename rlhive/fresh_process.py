"""Runs code that may crash in a process of its own. Imports nothing slow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def answer_of(code: str, *arguments: str, seconds: float, **environment: str) -> tuple[bool, str]:
    """Whether code succeeds in a fresh interpreter, and its last line of output, or the reason why not.

    Args:
        code: Python source.
        arguments: its `sys.argv[1:]`.
        seconds: how long it may take.
        environment: variables in addition to those of this process.
    """
    command = [sys.executable, "-c", code, *arguments]
    variables = {**os.environ, **environment}
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False, f"no answer in {seconds:.0f} s"
    if done.returncode < 0:
        return False, f"crashed ({signal.Signals(-done.returncode).name})"
    if done.returncode:
        return False, [f"exit code {done.returncode}", *done.stderr.strip().splitlines()][-1]
    return True, ["", *done.stdout.strip().splitlines()][-1]

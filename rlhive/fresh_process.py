"""Code tried in a process of its own, which it may crash. Free of what takes long to import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def answer_of(code: str, *arguments: str, seconds: float, **environment: str) -> tuple[bool, str]:
    """Whether code ends well in a fresh interpreter, and its last line of output, or why not.

    Args:
        code: Python.
        arguments: its `sys.argv[1:]`.
        seconds: how long it may take.
        environment: variables beside those of this process.
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

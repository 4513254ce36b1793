"""How the commands of RLHive start: absl flags, and one line for a wrong one."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags


def start(
    name: str, main: Callable[[Sequence[str]], int], define_flags: Callable[[], None], argv: Sequence[str]
) -> None:
    """Parses the flags and ends the process with the exit code of `main`.

    A wrong flag and a `ValueError` of `main` end it with 2, a failure (`RuntimeError`, `OSError`) with 1, Ctrl-C with
    130, each with one line that says why.

    Args:
        name: of the command, which begins its messages.
        main: `main(argv without flags) -> exit code`.
        define_flags: defines the command's flags; two commands may have flags of one name, so none does on import.
        argv: the command line.
    """

    def parse(args: Sequence[str]) -> list[str]:
        try:
            return list(flags.FLAGS(args))
        except flags.Error as error:
            sys.stderr.write(f"{name}: {' '.join(str(error).split())}; see --help\n")
            sys.exit(2)

    def run(args: Sequence[str]) -> int:
        try:
            return main(args)
        except (ValueError, RuntimeError, OSError) as error:
            sys.stderr.write(f"{name}: {error}\n")
            return 2 if isinstance(error, ValueError) else 1
        except KeyboardInterrupt:
            sys.stderr.write(f"{name}: interrupted\n")
            return 130  # what shells expect after Ctrl-C

    let_threads_sleep()
    define_flags()
    app.define_help_flags()
    log_to_stderr(name)
    app.run(run, argv=list(argv), flags_parser=parse)


def let_threads_sleep() -> None:
    """Lets OpenMP's threads sleep some microseconds after their work, where the user says nothing about it.

    By default they spin for milliseconds, in the way of whatever else runs on their cores: beside one busy process an
    update on two threads was then up to three times as slow as with this. It counts until torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def log_to_stderr(name: str) -> None:
    """Writes what the library logs to stderr, each line beginning with the command's name."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    log = logging.getLogger("rlhive")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # absl's handler would print it once more

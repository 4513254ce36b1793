"""How the commands of RLHive start and end: absl flags, and one line for whatever goes wrong."""

from __future__ import annotations

import argparse
import atexit
import ctypes
import gc
import logging
import os
import re
import select
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rlhive.command_line import command_line
from rlhive.core.files import naming
from rlhive.core.interrupt import CAUGHT, make_is_repeated
from rlhive.streams import prepare_streams

_LIMIT = "; the limit of processes and threads is reached (ulimit -u, or the container's)"
INTERRUPTED = 130  # what shells expect after Ctrl-C
_NO_DOCSTRINGS = (
    "Python without docstrings (-OO, PYTHONOPTIMIZE=2) cannot import torchrl: use -O or leave it out"
)


def start(
    name: str, main: Callable[[Sequence[str]], int], define_flags: Callable[[], None], argv: Sequence[str]
) -> None:
    """Parses the flags, runs `main` and ends the process as `finish` does; a wrong flag ends it with 2.

    Args:
        name: of the command, which begins its messages.
        main: `main(argv without flags) -> exit code`.
        define_flags: defines the command's flags; two commands may have flags of one name, so none does on import.
        argv: the command line.
    """
    from absl import app, flags, logging  # here: the commands with argparse answer sooner without

    def parse(args: Sequence[str]) -> list[str]:
        try:
            return list(flags.FLAGS(args))
        except flags.Error as error:
            sys.stderr.write(f"{name}: {' '.join(str(error).split())}; see --help\n")
            sys.exit(2)
        except SystemExit:  # of --help, which absl counts as a failure
            sys.exit(0)

    def run_main(args: Sequence[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # the GL libraries report each step of theirs
        return main(args)

    def run() -> int:
        let_threads_sleep()
        collect_less_often()
        keep_freed_memory()
        define_flags()
        app.define_help_flags()
        log_to_stderr(name)
        app.run(run_main, argv=list(argv), flags_parser=parse)

    finish(name, run)


class Parser(argparse.ArgumentParser):
    """For commands that need no absl; a wrong flag is one line, too."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with 2 and the message."""
        self.exit(2, f"{self.prog.split()[-1]}: {message}; see --help\n")


def refuse_arguments(argv: Sequence[str], flag: str) -> None:
    """Refuses arguments after the flags, for a command that takes none.

    Args:
        argv: the command and its arguments.
        flag: the one whose value they may have been meant for.

    Raises:
        ValueError: naming the first one.
    """
    if len(argv) > 1:
        raise ValueError(
            f"unknown argument {argv[1]!r}: did you mean {shlex.quote(f'--{flag}={argv[1]}')}? See --help"
        )


def require_flags(*names: str) -> None:
    """Refuses a command line without a value for each of these flags.

    Raises:
        ValueError: naming the first one that lacks it.
    """
    from absl import flags

    for name in names:
        if not flags.FLAGS[name].value:
            raise ValueError(f"--{name} must be given; see --help")


def load_torch_on_one_thread() -> None:
    """Imports torch, before anything that loads mujoco, for a command that acts on one observation at a time.

    Threads for that cost 20 times as much on a busy machine.
    """
    from rlhive import load_torch

    load_torch()
    import torch

    torch.set_num_threads(1)


def finish(name: str, main: Callable[[], int]) -> NoReturn:
    """Runs `main` and ends the process with its exit code.

    A `ValueError` ends it with 2, a failure (`RuntimeError`, `ArithmeticError`, `OSError`, `MemoryError`,
    `ImportError`) with 1, Ctrl-C with 130, SIGTERM with 143, SIGHUP with 129, each with one line that says why. Where
    the reader of its output left, as `| head` does, it ends with 1 and no line; where only that of stderr left, it goes
    on.
    """
    prepare_streams()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `rlhive/__init__.py` leaves it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt = _make_interrupt()
    for number in CAUGHT:
        if signal.getsignal(number) is signal.SIG_DFL:  # not ignored, as by nohup
            signal.signal(number, interrupt)
    if sys.flags.optimize > 1:
        leave(_say(name, _NO_DOCSTRINGS, 1))
    leave(_exit_code(name, _check_directory) or _exit_code(name, main) or _exit_code(name, _write_out))


def _check_directory() -> int:
    """Refuses to begin in a directory that was removed, in which torch finds its own libraries no more."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ValueError("the working directory is gone: cd to one that exists") from None
    return 0


def _make_interrupt() -> Callable[[int, Any], None]:
    """Makes the handler that ends the command as Ctrl-C does, so that nothing half written stays behind."""
    is_repeated = make_is_repeated()

    def interrupt(number: int, frame: Any) -> None:
        if not is_repeated():  # which would end the cleaning up as well
            raise KeyboardInterrupt(number)

    return interrupt


def _exit_code(name: str, main: Callable[[], int]) -> int:
    try:
        return main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        return _say(name, end.code, 1)
    except KeyboardInterrupt as end:
        if not end.args:  # Ctrl-C
            return _say(name, "interrupted", INTERRUPTED)
        return _say(name, f"interrupted by {signal.Signals(end.args[0]).name}", 128 + end.args[0])
    except (ValueError, RuntimeError, ArithmeticError, OSError, MemoryError, ImportError) as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            return 1
        return _say(name, reason(error), 2 if isinstance(error, ValueError) else 1)


def reason(error: Exception) -> str:
    """Why a command fails, in words for its user."""
    if isinstance(error, MemoryError):
        return f"out of memory{f': {error}' if str(error) else ''}"
    # As the system's linker says it.
    if isinstance(error, ImportError) and "failed to map segment" in str(error):
        return f"out of address space (ulimit -v): {error}"
    if isinstance(error, ImportError):
        return f"cannot import: {error}; `{command_line('rlhive.doctor')}` looks at the installation"
    # gin adds lines that say which of its configurables called.
    text = re.sub(r"\s*\n\s*In call to configurable .*", "", str(error))
    is_limit = any(words in text for words in ("can't start new thread", "Resource temporarily unavailable"))
    is_locked = "lock file" in text  # by another process, as HDF5 says it
    return f"{text}{_LIMIT}" if is_limit and not is_locked and _LIMIT not in text else text


def _write_out() -> int:
    with naming("stdout"):
        sys.stdout.flush()
    return 0


def _say(name: str, why: object, code: int) -> int:
    # Compilers say several lines.
    sys.stderr.write(f"{name}: {' '.join(map(str.strip, str(why).splitlines()))}\n")
    return code


def _reader_left() -> bool:
    """Whether stdout has no reader any more: a pipe to another process may break, too, which is a failure."""
    streams = select.poll()
    streams.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in streams.poll(0))


def leave(code: int) -> NoReturn:
    """Ends the process without taking apart what it imported, which takes torch and its compiler two seconds.

    All else is as at any end of Python: threads are waited for, and what was registered for the end runs; no Ctrl-C
    breaks that off.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except KeyboardInterrupt:  # whoever asks now waits for no thread
        code = code or INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the reader left, as after `| head`, or the disk is full
        code = code or 1
    os._exit(code)


def let_threads_sleep() -> None:
    """Lets OpenMP's threads sleep some microseconds after their work, where the user says nothing about it.

    By default they spin for milliseconds, in the way of whatever else runs on their cores: beside one busy process an
    update on two threads was then up to three times as slow as with this. It counts until torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def collect_less_often() -> None:
    """Lets Python look for unused cycles of objects less often than after every 700 new ones.

    Importing torch and compiling make a million, and looking through them again and again took 2.5 s of the first 30 s
    of a run. Memory stays the same: evaluations leave such cycles, 6000 objects each, training steps hardly any.
    """
    gc.set_threshold(50_000, 5, 5)


def keep_freed_memory() -> None:
    """Lets glibc keep up to 256 MB of freed memory for what comes next, where the user says nothing about it.

    It returns the end of its heap to the system, of which the next update then asks for it again, page by page: where
    the trees of a run came to lie so, which is chance, an update of eight small seeds took half as long again.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter in (trim_threshold, mmap_threshold):
            libc.mallopt(parameter, 1 << 28)


def log_to_stderr(name: str) -> None:
    """Writes what the library logs to stderr, each line beginning with the command's name."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    log = logging.getLogger("rlhive")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # absl's handler would print it once more
    # It tells at each start where it cannot keep its cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)

"""How the commands of RLHive start and end: absl flags, and a one-line message for anything that goes wrong."""

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

_LIMIT = "; the limit on processes and threads is reached (ulimit -u, or the container's)"
INTERRUPTED = 130  # what shells expect after Ctrl-C
_NO_DOCSTRINGS = (
    "Python without docstrings (-OO, PYTHONOPTIMIZE=2) cannot import torchrl: use -O, or unset it"
)


def start(
    name: str, main: Callable[[Sequence[str]], int], define_flags: Callable[[], None], argv: Sequence[str]
) -> None:
    """Parses the flags, runs `main` and ends the process as `finish` does; a wrong flag ends it with 2.

    Args:
        name: of the command; its messages begin with it.
        main: `main(argv without flags) -> exit code`.
        define_flags: defines the command's flags. None is defined on import, since two commands may have flags of the
            same name.
        argv: the command line.
    """
    from absl import app, flags, logging  # not at the top: commands with argparse start faster without it

    def parse(args: Sequence[str]) -> list[str]:
        try:
            return list(flags.FLAGS(args))
        except flags.Error as error:
            sys.stderr.write(f"{name}: {' '.join(str(error).split())}; see --help\n")
            sys.exit(2)
        except SystemExit:  # from --help, which absl counts as a failure
            sys.exit(0)

    def run_main(args: Sequence[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # the GL libraries log every step they take
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
    """For commands without absl; reports a wrong flag in one line too."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with exit code 2 and the message."""
        self.exit(2, f"{self.prog.split()[-1]}: {message}; see --help\n")


def refuse_arguments(argv: Sequence[str], flag: str) -> None:
    """Refuses arguments after the flags, for a command that takes none.

    Args:
        argv: the command and its arguments.
        flag: the flag that the first argument may have been meant for.

    Raises:
        ValueError: there are any; names the first.
    """
    if len(argv) > 1:
        raise ValueError(
            f"unknown argument {argv[1]!r}: did you mean {shlex.quote(f'--{flag}={argv[1]}')}? See --help"
        )


def require_flags(*names: str) -> None:
    """Refuses a command line that lacks a value for any of these flags.

    Raises:
        ValueError: naming the first flag without a value.
    """
    from absl import flags

    for name in names:
        if not flags.FLAGS[name].value:
            raise ValueError(f"--{name} must be given; see --help")


def load_torch_on_one_thread() -> None:
    """Imports torch, before anything that loads mujoco, for a command that acts on one observation at a time.

    With several threads, such an action takes 20 times as long on a busy machine.
    """
    from rlhive import load_torch

    load_torch()
    import torch

    torch.set_num_threads(1)


def finish(name: str, main: Callable[[], int]) -> NoReturn:
    """Runs `main` and ends the process with its exit code.

    A `ValueError` ends it with 2, a failure (`RuntimeError`, `ArithmeticError`, `OSError`, `MemoryError`,
    `ImportError`) with 1, Ctrl-C with 130, SIGTERM with 143, SIGHUP with 129, each with one line that says why. If the
    reader of stdout goes away, as `| head` does, the process ends with 1 and no message; if only the reader of stderr
    goes away, it continues.
    """
    prepare_streams()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set by `rlhive/__init__.py`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt = _make_interrupt()
    for number in CAUGHT:
        if signal.getsignal(number) is signal.SIG_DFL:  # unless ignored, as under nohup
            signal.signal(number, interrupt)
    if sys.flags.optimize > 1:
        leave(_say(name, _NO_DOCSTRINGS, 1))
    leave(_exit_code(name, _check_directory) or _exit_code(name, main) or _exit_code(name, _write_out))


def _check_directory() -> int:
    """Refuses to start in a removed directory, where torch no longer finds its own libraries."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ValueError("the working directory was removed: cd to one that exists") from None
    return 0


def _make_interrupt() -> Callable[[int, Any], None]:
    """Makes a signal handler that ends the command as Ctrl-C does, so that nothing half-written stays behind."""
    is_repeated = make_is_repeated()

    def interrupt(number: int, frame: Any) -> None:
        if not is_repeated():  # a second one would end the cleaning up as well
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
    """Why a command failed, in words for its user."""
    if isinstance(error, MemoryError):
        return f"out of memory{f': {error}' if str(error) else ''}"
    # The wording of the system's linker.
    if isinstance(error, ImportError) and "failed to map segment" in str(error):
        return f"out of address space (ulimit -v): {error}"
    if isinstance(error, ImportError):
        return f"cannot import: {error}; `{command_line('rlhive.doctor')}` checks the installation"
    # gin adds lines that name the calling configurables.
    text = re.sub(r"\s*\n\s*In call to configurable .*", "", str(error))
    is_limit = any(words in text for words in ("can't start new thread", "Resource temporarily unavailable"))
    is_locked = "lock file" in text  # HDF5's wording when another process holds the file
    return f"{text}{_LIMIT}" if is_limit and not is_locked and _LIMIT not in text else text


def _write_out() -> int:
    with naming("stdout"):
        sys.stdout.flush()
    return 0


def _say(name: str, why: object, code: int) -> int:
    # Compilers write several lines.
    sys.stderr.write(f"{name}: {' '.join(map(str.strip, str(why).splitlines()))}\n")
    return code


def _reader_left() -> bool:
    """Whether stdout lost its reader; if another pipe broke, that is a failure."""
    streams = select.poll()
    streams.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in streams.poll(0))


def leave(code: int) -> NoReturn:
    """Ends the process without tearing down imported modules, which takes two seconds for torch and its compiler.

    Everything else is as whenever Python exits: threads are joined and exit functions run. Ctrl-C does not interrupt
    that.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except KeyboardInterrupt:  # Ctrl-C while joining: stop waiting for threads
        code = code or INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the reader is gone, as after `| head`, or the disk is full
        code = code or 1
    os._exit(code)


def let_threads_sleep() -> None:
    """Lets OpenMP's threads sleep microseconds after their work ends, unless the user has set this.

    By default they spin for milliseconds and slow down everything else on their cores: beside one busy process, an
    update on two threads took up to three times as long as with this setting. Call it before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def collect_less_often() -> None:
    """Makes Python's garbage collector run less often than after every 700 new objects.

    Importing torch and compiling create a million objects, and scanning them again and again took 2.5 s of the first
    30 s of a run. Memory use stays the same: an evaluation leaves cycles of 6000 objects, training steps hardly any.
    """
    gc.set_threshold(50_000, 5, 5)


def keep_freed_memory() -> None:
    """Lets glibc keep up to 256 MB of freed memory for reuse, unless the user has set this.

    Otherwise it returns the end of its heap to the system, and the next update requests it again, page by page. When
    a run's trees happened to lie there, an update of eight small seeds took half as long again.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter in (trim_threshold, mmap_threshold):
            libc.mallopt(parameter, 1 << 28)


def log_to_stderr(name: str) -> None:
    """Writes the library's log to stderr, each line starting with the command's name."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    log = logging.getLogger("rlhive")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # absl's handler would print each line again
    # At each start it reports where it cannot keep its cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)

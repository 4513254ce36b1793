"""RLHive: train and deploy policies on RoboHive robots, functionally, over torch.func."""

import importlib.util
import multiprocessing
import signal
import sys

__all__ = ["__version__", "load_torch"]
__version__ = "0.1.0"
WORKER_NAME = "rlhive-worker"


def load_torch() -> None:
    """Imports torch and, if installed, its compiler triton; importing either after a GL driver crashes the process.

    Raises:
        ImportError: a GL driver was imported first.
    """
    needed = [name for name in ("torch", "triton") if importlib.util.find_spec(name)]
    drivers = [name for name in ("mujoco.egl", "mujoco.osmesa", "OpenGL") if name in sys.modules]
    if drivers and not all(name in sys.modules for name in needed):
        raise ImportError(
            f"{drivers[0]} was imported before {' and '.join(needed)}, and importing them now would crash this "
            "process: put `import rlhive` before every import of mujoco, dm_control, robohive or OpenGL."
        )
    for name in needed:
        importlib.import_module(name)


# Two kinds of process do not import torch here: `python -m rlhive.…`, which answers --help and wrong flags before
# spending seconds on torch, and then imports it first; and the workers that step environments, which start in a third
# of the time and take a third of the memory. (While Python looks for the module to run, sys.argv[0] is "-m".)
_MODULE = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv[:-1] else ""
_IS_COMMAND = sys.argv[0] == "-m" and _MODULE.startswith("rlhive.")
if _IS_COMMAND and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until `rlhive.command.finish`: Ctrl-C during imports shows no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# absl is the first package that commands import; the doctor reports whatever else is missing.
if _IS_COMMAND and _MODULE != "rlhive.doctor" and importlib.util.find_spec("absl") is None:
    sys.exit(
        f"{_MODULE}: absl-py is missing from {sys.executable}: run it with `uv run`, or install rlhive's packages "
        "(README.md)"
    )
if not _IS_COMMAND and multiprocessing.current_process().name != WORKER_NAME:
    load_torch()

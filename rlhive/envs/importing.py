"""What surrounds RoboHive's own code: its import, what it prints, and what cannot be done by two at a time."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

_LOCK, _QUIET = threading.Lock(), threading.RLock()
# Modules whose classes write their model to a file, load it and remove it: of one name, or with the time in it.
WRITE_THEIR_MODEL = "robohive.envs.fm.", "robohive.envs.myo.myodm."
_VIDEO = "skvideo", "skvideo.io"  # what RoboHive imports to write videos


def import_robohive() -> None:
    """Imports RoboHive, which registers its environments with gymnasium.

    Its writer of videos comes when it is used: it imports most of SciPy, which is half of the time until an
    environment is built, and 50 MB of every process that has one.
    """
    with _LOCK:  # threads that build environments at the same time must not meet half of it
        postponed = contextlib.nullcontext() if "robohive" in sys.modules else _import_at_first_use(*_VIDEO)
        with postponed:
            import robohive  # noqa: F401


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps RoboHive's banners, warnings, numpy print options and log handlers out of the caller's process.

    One thread at a time: stdout is the process's, and two would leave each other's behind.
    """
    os.environ.setdefault("ROBOHIVE_VERBOSITY", "SILENT")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # RoboHive's import fails where there is no git
    with (
        _QUIET,
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        np.printoptions(),
    ):
        warnings.simplefilter("ignore")
        root = logging.getLogger()
        handlers = root.handlers[:]
        try:
            yield
        finally:  # absl's, of dm_control, would let the caller's logging.basicConfig do nothing
            root.handlers[:] = handlers


@contextlib.contextmanager
def building(entry_point: object) -> Iterator[None]:
    """Where environments of one class are built; RoboHive is imported.

    Args:
        entry_point: of gymnasium's spec, `"module:class"`. Environments that write their model are built one at a time
            on this machine: a second one could find it removed, or half written.

    Raises:
        RuntimeError: the environments write their model, and robohive's directory is not writable.
    """
    if not str(entry_point).startswith(WRITE_THEIR_MODEL):
        yield
        return
    import robohive
    from filelock import FileLock

    path = Path(robohive.__file__).with_name(".rlhive-build.lock")
    try:
        lock = FileLock(path).acquire()
    except OSError as error:
        raise RuntimeError(
            f"these environments write their model into {path.parent}, which is not possible ({error.strerror}): "
            "use a Python environment of your own"
        ) from error
    with lock:
        yield


class _Later(ModuleType):
    """What stands for a module that is imported when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _import_at_first_use(package: str, module: str) -> Iterator[None]:
    """Imports inside get a module of a package that is not loaded yet; all other imports are as ever."""
    if package in sys.modules:
        yield
        return
    stand_ins = {name: _Later(name) for name in (package, module)}
    setattr(stand_ins[package], module.removeprefix(f"{package}."), stand_ins[module])
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]

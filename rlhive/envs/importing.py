"""Imports RoboHive quickly and quietly, and builds its environments one at a time where they must be."""

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
# Modules whose classes write their model to a file, load it and remove it; its name is fixed or holds the time.
WRITE_THEIR_MODEL = "robohive.envs.fm.", "robohive.envs.myo.myodm."
_VIDEO = "skvideo", "skvideo.io"  # what RoboHive imports to write videos


def import_robohive() -> None:
    """Imports RoboHive, which registers its environments with gymnasium.

    Its video writer is imported only when it is used: that imports most of SciPy, which takes half of the time until
    an environment is built, and 50 MB in every process that has one.
    """
    with _LOCK:  # a thread must not find it half imported by another
        postponed = contextlib.nullcontext() if "robohive" in sys.modules else _import_at_first_use(*_VIDEO)
        with postponed:
            import robohive  # noqa: F401


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps RoboHive's banners, warnings, numpy print options and log handlers out of the caller's process.

    Only one thread at a time may be inside: stdout belongs to the process, and two would restore each other's.
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
        finally:  # with absl's handler, from dm_control, the caller's logging.basicConfig would do nothing
            root.handlers[:] = handlers


@contextlib.contextmanager
def building(entry_point: object) -> Iterator[None]:
    """The context in which to build environments of one class; RoboHive must be imported.

    Args:
        entry_point: the one in gymnasium's spec, `"module:class"`. Environments that write their model are built one at
            a time on this machine: a second one could find the file removed or half written.

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
    """A stand-in for a module, which is imported when one of its names is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _import_at_first_use(package: str, module: str) -> Iterator[None]:
    """Imports of `module` and its `package` inside the block load it at its first use; all others are unchanged."""
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

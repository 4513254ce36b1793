"""A lock on gin's bindings, which all threads share, so that one configuration is loaded at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from rlhive.config.errors import ConfigError

# For a load in another thread.
SECONDS_TO_WAIT = 60.0
_BINDINGS_LOCK = threading.Lock()
# The one that holds the lock.
_loading_thread: int | None = None


def _renew_lock() -> None:
    global _BINDINGS_LOCK, _loading_thread
    _BINDINGS_LOCK, _loading_thread = threading.Lock(), None


# A forked child copies a held lock, but not the thread that would release it.
os.register_at_fork(after_in_child=_renew_lock)


@contextlib.contextmanager
def lock_bindings() -> Iterator[None]:
    """Lets one load run at a time.

    Raises:
        ConfigError: this thread is loading already, or another one does not finish, since it imports what this one
            is importing.
    """
    global _loading_thread
    # A second load would throw away the bindings of the first.
    if _loading_thread == threading.get_ident():
        raise ConfigError(
            "a module that a gin file imports loads a configuration itself: load it inside a function"
        )
    lock = _BINDINGS_LOCK
    if not lock.acquire(timeout=SECONDS_TO_WAIT):
        raise ConfigError(
            f"another thread has been loading a configuration for {SECONDS_TO_WAIT:.0f} s: import the modules that "
            "load one, or that a gin file imports, before threads load any"
        )
    _loading_thread = threading.get_ident()
    try:
        yield
    finally:
        _loading_thread = None
        lock.release()

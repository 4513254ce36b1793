"""What a process finds that was forked while another thread held a lock."""

import os
import threading

import pytest

from rlhive.config import lock as locking
from rlhive.core import compile as compiling


@pytest.mark.parametrize(("module", "name"), [(locking, "_BINDINGS_LOCK"), (compiling, "_TRACING_LOCK")])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # is multi-threaded
def test_a_fork_does_not_wait_for_a_thread_that_it_has_not(module, name):
    held, done = threading.Event(), threading.Event()

    def hold():
        with getattr(module, name):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        os._exit(0 if getattr(module, name).acquire(timeout=0.2) else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0

"""RoboHive comes without its writer of videos, and many processes and threads build its environments at once."""

import errno
import importlib.util
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import gymnasium
import pytest

from rlhive.envs.importing import WRITE_THEIR_MODEL, building, import_robohive, quiet
from rlhive.envs.vector import VectorEnv

CHECK = """
import sys
from rlhive.envs.importing import import_robohive
import_robohive()
assert "skvideo" not in sys.modules and "scipy.signal" not in sys.modules
import robohive.envs.env_base
assert robohive.envs.env_base.skvideo.io.vwrite.__module__ == "skvideo.io.io"  # imported at its first use
import skvideo.utils  # and as ever for others
import_robohive()
import skvideo
assert skvideo.__file__
"""


def test_robohive_imports_its_writer_of_videos_when_it_writes_one():
    subprocess.run([sys.executable, "-c", CHECK], check=True)


TOGETHER = """
from concurrent.futures import ThreadPoolExecutor
import gymnasium
from rlhive.envs.importing import import_robohive

def registered(_):
    import_robohive()
    return "FrankaReachRandom-v0" in gymnasium.registry

with ThreadPoolExecutor(4) as threads:
    assert all(threads.map(registered, range(4)))
"""


def test_threads_that_import_it_together_all_find_it_whole():
    subprocess.run([sys.executable, "-c", TOGETHER], check=True)


def test_threads_leave_stdout_as_it_was():
    before, entered, left = sys.stdout, threading.Event(), threading.Event()

    def second():
        with quiet():
            entered.set()
            left.wait(60)

    thread = threading.Thread(target=second)
    with quiet():
        thread.start()
        entered.wait(0.2)  # in vain, unless two are let in
    left.set()
    thread.join()
    assert sys.stdout is before


def test_handlers_of_the_root_logger_are_the_callers_own():
    root = logging.getLogger()
    before = root.handlers[:]
    with quiet():
        root.addHandler(logging.NullHandler())
    assert root.handlers == before
    with pytest.raises(RuntimeError, match="failed"), quiet():
        root.addHandler(logging.NullHandler())
        raise RuntimeError("failed")
    assert root.handlers == before


@pytest.mark.parametrize(("module", "waits"), [("fm.x", True), ("myo.myodm.x", True), ("arms.x", False)])
def test_what_writes_its_model_is_built_by_one_at_a_time(module, waits):
    import_robohive()
    entered = threading.Event()

    def second():
        with building(f"robohive.envs.{module}:Env"):
            entered.set()

    thread = threading.Thread(target=second)
    with building(f"robohive.envs.{module}:Env"):
        thread.start()
        assert entered.wait(0.5 if waits else 60) != waits
    thread.join(60)
    assert entered.is_set()


def test_what_cannot_write_its_model_says_where_it_must_be_able_to(monkeypatch):
    import_robohive()

    def refuse(lock, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), lock.lock_file)

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with building("robohive.envs.arms.x:Env"):  # writes nothing
        pass
    with (
        pytest.raises(RuntimeError, match=r"model into .*robohive, .*\(Permission denied\): use a Python"),
        building("robohive.envs.fm.x:Env"),
    ):
        pass


def test_all_that_write_their_model_are_known():
    import_robohive()
    for spec in gymnasium.registry.values():
        module = str(spec.entry_point).partition(":")[0]
        if module.startswith("robohive."):
            writes = "_processed.xml" in Path(importlib.util.find_spec(module).origin).read_text()
            assert writes == module.startswith(WRITE_THEIR_MODEL), spec.id


def test_workers_build_environments_that_write_a_file_of_one_name():
    with VectorEnv("rpFrankaRobotiqData-v0", seeds=(1, 2), num_workers=2) as envs:
        assert envs.reset()["observation"].isfinite().all()

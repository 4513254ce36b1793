"""RoboHive's import leaves its writer of videos for later, and everything else as it was."""

import subprocess
import sys

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

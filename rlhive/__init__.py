"""RLHive: train and deploy policies on RoboHive robots, functionally, over torch.func."""

import multiprocessing
import sys

__all__ = ["__version__"]
__version__ = "0.1.0"
WORKER_NAME = "rlhive-worker"

# A software GL driver that is in the process before torch makes `import torch` crash without a word.
_GL_MODULES = [name for name in ("mujoco.egl", "mujoco.osmesa", "OpenGL") if name in sys.modules]
if _GL_MODULES and "torch" not in sys.modules:
    raise ImportError(
        f"{_GL_MODULES[0]} was imported before torch, and importing torch now would crash this process: "
        "put `import rlhive` (or `import torch`) before every import of mujoco, dm_control, robohive or OpenGL."
    )

# Two do without torch: `python -m rlhive.…`, which answers --help and wrong flags before it pays seconds for torch and
# then imports it first (while Python looks for the module to run, sys.argv[0] is "-m"); and the workers that step
# environments, which start in a third of the time and take a third of the memory.
if sys.argv[0] != "-m" and multiprocessing.current_process().name != WORKER_NAME:
    import torch  # noqa: F401

"""RLHive: train and deploy policies on RoboHive robots, functionally, over torch.func."""

import sys

# A software GL driver that is in the process before torch makes `import torch` crash without a word.
_GL_MODULES = [name for name in ("mujoco.egl", "mujoco.osmesa", "OpenGL") if name in sys.modules]
if _GL_MODULES and "torch" not in sys.modules:
    raise ImportError(
        f"{_GL_MODULES[0]} was imported before torch, and importing torch now would crash this process: "
        "put `import rlhive` (or `import torch`) before every import of mujoco, dm_control, robohive or OpenGL."
    )

import torch  # noqa: E402

__all__ = ["__version__"]
__version__ = "0.1.0"

del torch

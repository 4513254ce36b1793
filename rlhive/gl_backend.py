"""What MUJOCO_GL may say, and what fast drawing is. Free of what takes long to import, and of mujoco."""

from __future__ import annotations

import os

DRAWING = ("egl", "osmesa", "glfw")
_BLIND = ("off", "disable", "disabled", "false", "0")
_GLFW = ("on", "enable", "enabled", "true", "1")  # what the two libraries call it besides
# What "fast" images leave out: flags of MuJoCo's scenes, and fields of `model.vis.quality` that are 0.
FAST_FLAGS = ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_SKYBOX")
FAST_QUALITY = ("offsamples", "shadowsize")


def check_backend(*, draws: bool) -> str:
    """MUJOCO_GL as mujoco and dm_control both take it, which it is set to; empty where it is not set.

    Args:
        draws: whether images are to be drawn; else all will do that the two take.

    Raises:
        ValueError: it is something else.
    """
    given = os.environ.get("MUJOCO_GL", "")
    backend = given.strip().lower()  # mujoco does so itself, dm_control does not
    backend = "glfw" if backend in _GLFW else backend
    if backend not in ("", *DRAWING, *(() if draws else _BLIND)):
        raise ValueError(
            f"MUJOCO_GL must be {', '.join(DRAWING[:-1])} or {DRAWING[-1]}, or not set, got {given!r}"
        )
    if backend != given:
        os.environ["MUJOCO_GL"] = backend
    return backend

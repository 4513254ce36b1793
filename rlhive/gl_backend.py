"""The values of MUJOCO_GL, and what fast drawing is. Imports neither mujoco nor anything slow."""

from __future__ import annotations

import os

DRAWING = ("egl", "osmesa", "glfw")
_BLIND = ("off", "disable", "disabled", "false", "0")
_GLFW = ("on", "enable", "enabled", "true", "1")  # other names that the two libraries accept
# What "fast" images leave out: these flags of MuJoCo's scenes are off, these fields of `model.vis.quality` are 0.
FAST_FLAGS = ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_SKYBOX")
FAST_QUALITY = ("offsamples", "shadowsize")


def check_backend(*, draws: bool) -> str:
    """Sets MUJOCO_GL to a spelling that both mujoco and dm_control accept and returns it; empty if it is unset.

    Args:
        draws: whether images will be drawn; otherwise any value that both accept will do.

    Raises:
        ValueError: it has another value.
    """
    given = os.environ.get("MUJOCO_GL", "")
    backend = given.strip().lower()  # mujoco does this itself, dm_control does not
    backend = "glfw" if backend in _GLFW else backend
    if backend not in ("", *DRAWING, *(() if draws else _BLIND)):
        raise ValueError(
            f"MUJOCO_GL must be {', '.join(DRAWING[:-1])} or {DRAWING[-1]}, or not set, got {given!r}"
        )
    if backend != given:
        os.environ["MUJOCO_GL"] = backend
    return backend

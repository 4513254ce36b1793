"""Checks whether videos can be written here. Imports nothing slow."""

from __future__ import annotations

import importlib.util
import subprocess

_REMEDY = "install it with `uv sync --extra video` or `pip install 'imageio[ffmpeg]'`"


def check_ffmpeg(what: str) -> None:
    """Refuses a video that could not be written, before any long work.

    Args:
        what: the flag or setting that asks for it.

    Raises:
        ValueError: imageio or its ffmpeg is missing, or ffmpeg does not run.
    """
    if any(importlib.util.find_spec(name) is None for name in ("imageio", "imageio_ffmpeg")):
        raise ValueError(f"{what} needs imageio with ffmpeg: {_REMEDY}")
    import imageio_ffmpeg

    try:
        subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-version"], capture_output=True, check=True, timeout=60
        )
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise ValueError(
            f"{what} needs ffmpeg, which does not run here ({error}): unset IMAGEIO_FFMPEG_EXE if it is set, "
            f"or {_REMEDY}"
        ) from None

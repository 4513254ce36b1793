"""Where RLHive keeps what it downloads, and where its gin files are."""

import os
from pathlib import Path

from rlhive.suggest import suggest


def cache_dir() -> Path:
    """The per-user cache: `RLHIVE_CACHE`, or `rlhive` in the user's cache directory; it may not exist yet."""
    override = os.environ.get("RLHIVE_CACHE")
    if override:
        return Path(override).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "rlhive"


def gin_directory() -> Path:
    """Where the shipped gin files are: in the installed package, or at the top of a checkout."""
    installed = Path(__file__).parent / "gin_files"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "gin"


def find_gin_file(name: str) -> Path:
    """The gin file at that path, or the shipped one of that name.

    Raises:
        ValueError: there is none.
    """
    for path in (Path(name), gin_directory() / name):
        if path.is_file():
            return path
    shipped = sorted(path.name for path in gin_directory().glob("*.gin"))
    raise ValueError(f"there is no gin file {name!r}: {suggest(Path(name).name, shipped)}")

"""Where RLHive keeps what it downloads."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The per-user cache: `RLHIVE_CACHE`, or `rlhive` in the platform's user cache; it need not exist yet."""
    override = os.environ.get("RLHIVE_CACHE")
    if override:
        return Path(override).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "rlhive"

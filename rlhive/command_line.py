"""Command lines: how one is written here, and which paths are refused in one."""

import os


def command_line(arguments: str) -> str:
    """How to run a command of RLHive here, such as "rlhive.doctor": with `uv run` if uv runs this process."""
    return f"{'uv run ' if 'UV' in os.environ else ''}python -m {arguments}"


def check_encoding(path: str | os.PathLike[str], flag: str = "") -> None:
    """Refuses a path that is not UTF-8 in this locale: neither checkpoints nor reports could store it.

    Raises:
        ValueError: naming the path after `flag`.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{flag}{path}: its name is not UTF-8 here (LANG?): choose another") from None

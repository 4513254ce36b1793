"""The ids of RoboHive's environments, without importing it: that takes seconds, and needs SimHive."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import json
import re

_VISUAL = re.compile(r"_v(2d|r3m\d+|rrl\d+|vc1\w)-v\d+$")


@functools.cache
def suites() -> dict[str, tuple[str, ...]]:
    """Ids of all environments of RoboHive 0.7.0 by suite, visual ones included, in alphabetical order."""
    text = (importlib.resources.files("rlhive.envs") / "suites.json").read_text()
    return {suite: tuple(names) for suite, names in json.loads(text).items()}


def list_names(pattern: str | None = None) -> list[str]:
    """Ids of the state environments of all suites; with a `pattern`, those containing it, whatever the case.

    Those that differ from a listed one only in their images (`…_v2d-v0`, `…_vr3m18-v0`, …) are left out.
    """
    names = [name for suite in suites().values() for name in suite if not _VISUAL.search(name)]
    return [name for name in names if (pattern or "").lower() in name.lower()]


def nearest(name: str, count: int = 3) -> list[str]:
    """The `count` or fewer ids that look most like `name`, best first."""
    lowered = {known.lower(): known for known in list_names()}
    close = difflib.get_close_matches(name.lower(), lowered, n=count, cutoff=0.5)
    return [lowered[known] for known in close]


def renders(name: str) -> bool:
    """Whether environment `name` has images, for which RoboHive imports torch when it is built."""
    return bool(_VISUAL.search(name)) or name == "rpFrankaRobotiqData-v0"


def check_name(name: str) -> None:
    """Nothing for an id of RoboHive's suites.

    Raises:
        ValueError: any other name; the message has the nearest ids.
    """
    if any(name in names for names in suites().values()):
        return
    close = nearest(name)
    hint = f"did you mean {', '.join(close)}?" if close else "`python -m rlhive.envs --list` prints them all"
    raise ValueError(f"{name!r} is not an environment of RoboHive: {hint}")

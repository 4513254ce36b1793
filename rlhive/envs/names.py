"""The ids of RoboHive's environments, without importing RoboHive, which takes seconds and needs SimHive."""

from __future__ import annotations

import functools
import importlib.resources
import json
import re

from rlhive.command_line import command_line
from rlhive.suggest import nearest

_ENCODER = re.compile(r"_v(flat|r3m18|r3m34|r3m50|rrl18|rrl34|rrl50|vc1s|vc1l)(?=-v\d+$)")


@functools.cache
def suites() -> dict[str, dict[str, int]]:
    """All environments of RoboHive 0.7.0 by suite, visual ones included, in alphabetical order.

    Returns:
        `{suite: {id: steps after which an episode is truncated}}`.
    """
    return json.loads((importlib.resources.files("rlhive.envs") / "suites.json").read_text())


def list_names(pattern: str | None = None) -> list[str]:
    """Ids of the environments of all suites; with a `pattern`, those that contain it, ignoring case."""
    names = [name for suite in suites().values() for name in suite]
    return [name for name in names if (pattern or "").lower() in name.lower()]


def encoder_of(name: str) -> str | None:
    """The encoder that RoboHive applies to the images of `name` ("r3m18", "rrl50", "flat", …), or None."""
    found = _ENCODER.search(name)
    return found and found[1]


def built_name(name: str) -> str:
    """The id that is built for `name`: the one with plain images (`…_v2d-v0`) if `name` has an encoder."""
    return _ENCODER.sub("_v2d", name)


def max_episode_steps(name: str) -> int:
    """Steps after which an episode of `name`, which `check_name` accepts, is truncated."""
    return next(names[built_name(name)] for names in suites().values() if built_name(name) in names)


def check_name(name: str) -> None:
    """Refuses what is not an id of RoboHive's suites; ids with another encoder pass.

    Raises:
        ValueError: it is not an id; the message names the nearest ones.
    """
    if not isinstance(name, str):
        raise ValueError(f"the id of an environment must be text, as 'FrankaReachRandom-v0' is, got {name!r}")
    if any(built_name(name) in names for names in suites().values()):
        return
    close = nearest(name, list_names())
    hint = (
        f"did you mean {', '.join(close)}?"
        if close
        else f"`{command_line('rlhive.envs --list')}` prints them all."
    )
    raise ValueError(
        f"{name!r} is not an environment of RoboHive: {hint} Only those of RoboHive 0.7.0 are known; for a variant "
        "or an environment of your own use VectorEnv(factory)"
    )

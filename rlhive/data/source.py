"""What a data set is of, by its first whole trial, before any of it is built; and whether it fits an environment."""

from __future__ import annotations

import os
from typing import NamedTuple

from rlhive.core.env_spec import EnvSpec
from rlhive.core.errors import LoadError
from rlhive.data.episode import Episode
from rlhive.data.formats import FORMATS, detect


class Source(NamedTuple):
    """The width of each step's observation and action, O and A, and whether it has a reward."""

    observation_dim: int
    action_dim: int
    has_rewards: bool


def environment_of(path: str | os.PathLike[str]) -> str | None:
    """RoboHive's id of where a data set is from; None where it does not say.

    Raises:
        LoadError: there is none, or it cannot be read.
    """
    return FORMATS[detect(path)].environment(path)


def describe(path: str | os.PathLike[str], *, skip_damaged: bool = False) -> Source:
    """What the first whole trial of a data set has.

    Raises:
        LoadError: the first trial is damaged and none is to be skipped, or there is no whole one.
    """
    for item in FORMATS[detect(path)].episodes(path):
        if isinstance(item, Episode):
            return Source(item.observations.shape[1], item.actions.shape[1], item.rewards is not None)
        if not skip_damaged:
            raise LoadError(f"{item}; train.skip_damaged=True leaves such trials out")
    raise LoadError(f"{path}: has no whole trial")


def check_fits(path: str | os.PathLike[str], source: Source, env: EnvSpec, *, needs_rewards: bool) -> None:
    """Refuses a data set that an algorithm cannot learn a policy for an environment from.

    Args:
        path: of the data set, for the message.
        source: what it has.
        env: the environment.
        needs_rewards: whether the algorithm learns from rewards.

    Raises:
        LoadError: naming all that differs.
    """
    wanted = {"observations": env.observation_dim, "actions": env.action_dim}
    found = {"observations": source.observation_dim, "actions": source.action_dim}
    differing = [
        f"{found[what]} {what} per step, not {wanted[what]}" for what in wanted if found[what] != wanted[what]
    ]
    if differing:
        raise LoadError(f"{path}: does not fit {env.name}: it has {' and '.join(differing)}")
    if needs_rewards and not source.has_rewards:
        raise LoadError(f"{path}: has no rewards, which this algorithm learns from; bc does without")

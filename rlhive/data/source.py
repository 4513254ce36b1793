"""What a data set holds, judged by its first intact trial, and whether it fits an environment."""

from __future__ import annotations

import logging
import os
from typing import NamedTuple

from rlhive.core.env_spec import EnvSpec
from rlhive.core.errors import LoadError
from rlhive.data.formats import FORMATS, detect, intact

LOG = logging.getLogger(__name__)
_PERIOD_TOLERANCE = 0.1


class Source(NamedTuple):
    """What the steps of a data set consist of.

    Attributes:
        observation_dim: O.
        action_dim: A.
        has_rewards: whether each step has a reward.
        environment: id of the RoboHive environment it was recorded in; None if it does not say.
        columns: the parts of the observation with their widths; None if it does not say.
        period: seconds per step, the median of the first intact trial; None if it does not say.
        clock_rounding: `Episode.clock_rounding` of that trial.
    """

    observation_dim: int
    action_dim: int
    has_rewards: bool
    environment: str | None
    columns: dict[str, int] | None
    period: float | None
    clock_rounding: float


def environment_of(path: str | os.PathLike[str]) -> str | None:
    """The id of the RoboHive environment that a data set was recorded in; None if it does not say.

    Raises:
        LoadError: the data set does not exist or cannot be read.
    """
    return FORMATS[detect(path)].environment(path)


def describe(path: str | os.PathLike[str], *, skip_damaged: bool = False) -> Source:
    """Describes a data set by its first intact trial.

    Raises:
        LoadError: the first trial is damaged and damaged ones are not skipped, or no trial is intact.
    """
    format_name = detect(path)
    source, first = FORMATS[format_name], next(intact(path, format_name, skip_damaged, []))
    return Source(
        first.observations.shape[1],
        first.actions.shape[1],
        first.rewards is not None,
        source.environment(path),
        source.columns(path, first.name),
        first.period,
        first.clock_rounding,
    )


def check_fits(path: str | os.PathLike[str], source: Source, env: EnvSpec, *, needs_rewards: bool) -> None:
    """Refuses a data set that does not fit an environment or an algorithm; warns where it cannot tell.

    Args:
        path: of the data set, for messages.
        source: describes it.
        env: the environment.
        needs_rewards: whether the algorithm learns from rewards.

    Raises:
        LoadError: it does not fit; the message says what differs.
    """
    wanted = {"observations": env.observation_dim, "actions": env.action_dim}
    found = {"observations": source.observation_dim, "actions": source.action_dim}
    differing = [
        f"{found[what]} {what} per step, not {wanted[what]}" for what in wanted if found[what] != wanted[what]
    ]
    if differing:
        raise LoadError(f"{path}: does not fit {env.name}: it has {' and '.join(differing)}")
    _check_columns(path, source, env)
    # Real clocks, as of a deployment, never agree to the last digit.
    allowed = _PERIOD_TOLERANCE * env.dt + source.clock_rounding
    if source.period is not None and abs(source.period - env.dt) > allowed:
        LOG.warning(
            "%s: its steps last %.3g s, those of %s %.3g s: the same action has another effect there",
            path,
            source.period,
            env.name,
            env.dt,
        )
    if needs_rewards and not source.has_rewards:
        raise LoadError(f"{path}: has no rewards, which this algorithm needs; bc does not")


def _check_columns(path: str | os.PathLike[str], source: Source, env: EnvSpec) -> None:
    """Refuses observations with the right width but other parts than the environment observes."""
    edges = zip(env.observation_keys, env.observation_slices, strict=True)
    parts = {key: stop - start for key, (start, stop) in edges}
    if source.columns is None and source.environment is None:
        LOG.warning(
            "%s: does not say what its %d observed numbers are; assuming %s of %s",
            path,
            source.observation_dim,
            _text(parts),
            env.name,
        )
    elif source.columns is not None and not _are_parts(source.columns, parts):
        raise LoadError(
            f"{path}: does not fit {env.name}: it has {_text(source.columns)}, the environment observes {_text(parts)}"
        )


def _are_parts(columns: dict[str, int], parts: dict[str, int]) -> bool:
    """Whether each column, such as of "qp_arm", is of the same kind as the part in its place, such as "qp_robot"."""
    kinds = [column.split("_")[0] for column, width in columns.items() for _ in range(width)]
    names = [key for key, width in parts.items() for _ in range(width)]
    return all(name.startswith(kind) for kind, name in zip(kinds, names, strict=True))


def _text(parts: dict[str, int]) -> str:
    return ", ".join(f"{name}[{width}]" for name, width in parts.items())

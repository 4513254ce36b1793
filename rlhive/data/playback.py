"""Plays logged actions again in the real environment and measures how far it drifts from what was logged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from rlhive import load_torch
from rlhive.core.errors import LoadError
from rlhive.core.files import check_new
from rlhive.data.episode import STATE_ONLY, Episode, check_length
from rlhive.data.formats import detect
from rlhive.data.h5 import datasets, read, read_trials
from rlhive.data.record import play, single_frames
from rlhive.data.trace import STATE, environment, reader, trace_file, write_trial
from rlhive.data.trace import pixels as recorded_pixels

if TYPE_CHECKING:
    import h5py

    from rlhive.core.pixel_spec import PixelSpec
    from rlhive.envs.robohive import RoboHive


class Drift(NamedTuple):
    """How far a trial played again is from the logged one.

    Attributes:
        name: the trial's.
        steps: how many were played.
        largest: the largest difference of each observation, over its entries, f64 `[steps + 1]`; None where the
            observations of the environment are others than those logged (images beside them, for one).
        logged_return: sum of logged rewards.
        played_return: sum of the rewards now.
        half_precision: whether the state was logged as float16.
    """

    name: str
    steps: int
    largest: np.ndarray | None
    logged_return: float
    played_return: float
    half_precision: bool


def replay(
    path: str | os.PathLike[str],
    env_name: str | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    pixels: PixelSpec | None = None,
) -> list[Drift]:
    """Restores the first logged state of each trial, plays its actions and compares.

    Args:
        path: a Trace with `env_infos/state`.
        env_name: where to play; by default the environment that the file names.
        out: a new Trace for what is seen now; None for none.
        pixels: its images; None for those of the file in the file's own environment, or that the id itself has.

    Raises:
        LoadError: a trial is damaged or has no state.
        ValueError: no environment is named, the states are not of it, or `out` will not do.
    """
    if out is not None:
        check_new(out)
    env_name = played_in(path, env_name)
    if pixels is None and env_name == environment(path):
        pixels = recorded_pixels(path)
    load_torch()  # before anything that loads mujoco
    from rlhive.envs.robohive import RoboHive

    drifts = []
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(contextlib.closing(RoboHive(env_name, pixels=pixels)))
        drawn = single_frames(env.spec.pixels)
        new = None if out is None else stack.enter_context(trace_file(out, env_name, drawn))
        for episode, state in tqdm(_starts(path), desc="replaying", unit="episode", disable=None):
            values = _play(env, episode, state)
            if new is not None:
                write_trial(new, episode.name, values)
            drifts.append(_compare(episode, values, state))
    return drifts


def played_in(path: str | os.PathLike[str], env_name: str | None) -> str:
    """That environment, or else the one that the file names.

    Raises:
        LoadError: it is no Trace.
        ValueError: neither is given.
    """
    if (format_name := detect(path)) != "trace":
        raise LoadError(
            f"{path}: is a {format_name} data set; only a Trace with states, as record writes it, can be played again"
        )
    env_name = env_name or environment(path)
    if env_name is None:
        raise ValueError(f"{path}: does not say which environment it is from: name it with --env")
    return env_name


def format_drifts(drifts: Sequence[Drift]) -> str:
    """A table for people."""
    lines = [f"{'trial':<12}{'steps':>7}{'drift, first':>14}{'largest':>12}{'return logged':>15}{'now':>10}"]
    for drift in drifts:
        first, most = (
            ("other", "keys")
            if drift.largest is None
            else (
                f"{drift.largest[0]:.1e}",
                f"{drift.largest.max():.1e}",
            )
        )
        lines.append(
            f"{drift.name:<12}{drift.steps:>7}{first:>14}{most:>12}"
            f"{drift.logged_return:>15.2f}{drift.played_return:>10.2f}"
        )
    if any(drift.half_precision for drift in drifts):
        lines.append("the states were logged as float16: a drift of 1e-3 at the first step is theirs")
    return "\n".join(lines)


def _starts(path: str | os.PathLike[str]) -> Iterator[tuple[Episode, dict[str, np.ndarray]]]:
    """Each trial with the first row of its states."""

    read_episode = reader(path, STATE_ONLY)

    def read_one(trial: h5py.Group, name: str, where: str) -> tuple[Episode, dict[str, np.ndarray]]:
        found = {key: item for key, item in datasets(trial, where).items() if key.startswith(STATE)}
        if not found:
            raise LoadError(f"{where}: has no {STATE}: without the state it cannot be played again")
        episode = read_episode(trial, name, where)
        rows = len(episode.observations)
        return episode, {
            key.removeprefix(STATE): _first_row(item, rows, f"{where}/{key}") for key, item in found.items()
        }

    for item in read_trials(path, read_one):
        if isinstance(item, LoadError):
            raise item
        yield item


def _first_row(dataset: h5py.Dataset, rows: int, where: str) -> np.ndarray:
    """The first of that many rows."""
    values = read(dataset, where)
    check_length(values, rows, where)
    first: np.ndarray = values[0]
    return first


def _play(env: RoboHive, episode: Episode, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if episode.actions.shape[1] != env.spec.action_dim:
        raise ValueError(
            f"{episode.name} has {episode.actions.shape[1]} actions per step, {env.spec.name} {env.spec.action_dim}"
        )
    actions = iter(episode.actions)
    return play(env, env.restore(state), lambda seen, rest: (next(actions), None), len(episode))


def _compare(episode: Episode, values: dict[str, np.ndarray], state: dict[str, np.ndarray]) -> Drift:
    now = values["observations"]
    rows = len(now)  # fewer than were logged where an episode ends sooner
    largest = None
    if now.shape[1] == episode.observations.shape[1]:
        largest = np.abs(now.astype(np.float64) - episode.observations[:rows]).max(1)
    rewards = np.zeros(1) if episode.rewards is None else episode.rewards
    return Drift(
        episode.name,
        rows - 1,
        largest,
        float(rewards.sum(dtype=np.float64)),
        float(values["rewards"][1:].sum()),
        any(value.dtype == np.float16 and np.isfinite(value).all() for value in state.values()),
    )

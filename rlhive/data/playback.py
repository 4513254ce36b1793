"""Replays logged actions in the real environment and measures the drift from what was logged."""

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
from rlhive.data.trace import (
    OBSERVED,
    STATE,
    read_environment,
    read_pixels,
    read_seed,
    reader,
    trace_file,
    write_trial,
)

if TYPE_CHECKING:
    import h5py

    from rlhive.core.pixel_spec import PixelSpec
    from rlhive.envs.robohive import RoboHive

# The largest drifts that rounding explains. The second is for the start of trials logged in half precision, where
# rounded positions change the muscle forces that Myo's hand observes by 0.03.
_ROUNDING, _HALF_ROUNDING = 1e-3, 0.1
_WHY = "the reset drew something that the logged state does not contain, or the task or scene differs"


class Drift(NamedTuple):
    """How far a replayed trial is from the logged one.

    Attributes:
        name: of the trial.
        steps: number of steps played.
        largest: the largest difference in each row, f64 `[steps + 1]`, over all parts of `env_infos/obs_dict` that both
            have (without an obs_dict, over the observation); relative for numbers above 1. None if they share no part.
        logged_return: sum of the logged rewards, NaN without rewards.
        played_return: sum of the replayed rewards.
        half_precision: whether the state was logged as float16.
    """

    name: str
    steps: int
    largest: np.ndarray | None
    logged_return: float
    played_return: float
    half_precision: bool

    @property
    def starts_elsewhere(self) -> bool:
        """Whether it starts further from the logged observation than rounding explains."""
        allowed = _HALF_ROUNDING if self.half_precision else _ROUNDING
        return self.largest is not None and not self.largest[0] <= allowed

    @property
    def drifts_away(self) -> bool:
        """Whether it drifts, at any row, further than rounding explains; always false for half precision."""
        return self.largest is not None and not self.half_precision and not self.largest.max() <= _ROUNDING

    @property
    def returns_other(self) -> bool:
        """Whether the returns differ by more than 1 %."""
        apart = abs(self.played_return - self.logged_return)
        return apart > 0.01 * max(1.0, abs(self.logged_return))


class _Logged(NamedTuple):
    """A trial of the file: everything observed, by its name in the file, and the state and seed that it starts from."""

    episode: Episode
    observed: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    seed: int | None


def replay(
    path: str | os.PathLike[str],
    env_name: str | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    pixels: PixelSpec | None = None,
) -> list[Drift]:
    """Restores the start of each trial from its seed and first logged state, plays its actions, and compares.

    Args:
        path: a Trace with `env_infos/state`.
        env_name: the environment to play in; by default the one that the file names.
        out: a new Trace for the replayed episodes; None for none.
        pixels: images of that Trace; None for those of the file if it is played in its own environment, else for
            those of the environment.

    Raises:
        LoadError: a trial is damaged or has no state.
        ValueError: no environment is named, the states do not fit it, `out` is not a valid place, or a trial that
            would be written there does not start where the logged one does.
    """
    if out is not None:
        check_new(out)
    env_name = played_in(path, env_name)
    if pixels is None and env_name == read_environment(path):
        pixels = read_pixels(path)
    for _ in _read(path):  # finds a damaged trial before any other is played
        pass
    load_torch()  # before anything that loads mujoco
    from rlhive.envs.robohive import RoboHive

    drifts = []
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(contextlib.closing(RoboHive(env_name, pixels=pixels)))
        drawn = single_frames(env.spec.pixels)
        new = None if out is None else stack.enter_context(trace_file(out, env_name, drawn))
        for logged in tqdm(_read(path), desc="replaying", unit="episode", disable=None):
            values = _play(env, logged)
            drifts.append(_compare(logged, values))
            if new is not None:
                _check_start(path, env_name, drifts[-1])
                write_trial(new, logged.episode.name, values, logged.seed)
    return drifts


def played_in(path: str | os.PathLike[str], env_name: str | None) -> str:
    """The given environment, or else the one that the file names.

    Raises:
        LoadError: the file is not a Trace.
        ValueError: neither is given.
    """
    if (format_name := detect(path)) != "trace":
        raise LoadError(
            f"{path}: is a {format_name} data set; only a Trace with states, as record writes it, can be replayed"
        )
    env_name = env_name or read_environment(path)
    if env_name is None:
        raise ValueError(f"{path}: does not say which environment it was recorded in: name it with --env")
    return env_name


def format_drifts(drifts: Sequence[Drift]) -> str:
    """A table, as text."""
    lines = [f"{'trial':<12}{'steps':>7}{'drift, first':>14}{'largest':>12}{'return logged':>15}{'now':>10}"]
    for drift in drifts:
        first, most = "other", "keys"
        if drift.largest is not None:
            first, most = f"{drift.largest[0]:.1e}", f"{drift.largest.max():.1e}"
        lines.append(
            f"{drift.name:<12}{drift.steps:>7}{first:>14}{most:>12}"
            f"{drift.logged_return:>15.2f}{drift.played_return:>10.2f}"
        )
    if any(drift.half_precision for drift in drifts):
        lines.append(
            f"the states were logged as float16, which explains a drift of up to {_HALF_ROUNDING} at the first step"
        )
    if count := sum(drift.starts_elsewhere for drift in drifts):
        lines.append(f"{count} of {len(drifts)} trials do not start where the logged ones do: {_WHY}")
    later = [drift for drift in drifts if drift.returns_other or drift.drifts_away]
    if count := sum(not drift.starts_elsewhere for drift in later):
        lines.append(
            f"{count} of {len(drifts)} trials have returns that differ by more than 1 % or drift by more than "
            f"{_ROUNDING}: {_WHY}, or rounding errors grew"
        )
    return "\n".join(lines)


def _check_start(path: str | os.PathLike[str], env_name: str, drift: Drift) -> None:
    """Refuses to write an episode that differs from the logged one from its first row on."""
    if drift.starts_elsewhere:
        assert drift.largest is not None
        back = "" if env_name == read_environment(path) else " Play it where it was recorded."
        raise ValueError(
            f"{path}: {drift.name}: starts {drift.largest[0]:.1e} away from what was logged when played in {env_name}: "
            f"{_WHY}; nothing was written.{back} Only files that hold the seed of each trial, as `record` writes them, "
            "reproduce what the reset drew"
        )


def _read(path: str | os.PathLike[str]) -> Iterator[_Logged]:
    """Each trial."""
    read_episode = reader(path, STATE_ONLY)

    def read_one(trial: h5py.Group, name: str, where: str) -> _Logged:
        found = datasets(trial, where)
        if not any(key.startswith(STATE) for key in found):
            raise LoadError(f"{where}: has no {STATE}: without a state it cannot be replayed")
        episode = read_episode(trial, name, where)
        rows = len(episode.observations)
        observed = {
            key: _rows(found[key], rows, f"{where}/{key}") for key in found if key.startswith(OBSERVED)
        }
        state = {
            key.removeprefix(STATE): _rows(found[key], rows, f"{where}/{key}")[0]
            for key in found
            if key.startswith(STATE)
        }
        return _Logged(
            episode, observed or {"observations": episode.observations}, state, read_seed(trial, where)
        )

    for item in read_trials(path, read_one):
        if isinstance(item, LoadError):
            raise item
        yield item


def _rows(dataset: h5py.Dataset, rows: int, where: str) -> np.ndarray:
    """The numbers of a data set, which must have that many rows."""
    values = read(dataset, where)
    check_length(values, rows, where)
    return values


def _play(env: RoboHive, logged: _Logged) -> dict[str, np.ndarray]:
    episode = logged.episode
    if episode.actions.shape[1] != env.spec.action_dim:
        raise ValueError(
            f"{episode.name} has {episode.actions.shape[1]} actions per step, {env.spec.name} has {env.spec.action_dim}"
        )
    actions = iter(episode.actions)
    first = env.restore(logged.state, 0 if logged.seed is None else logged.seed)
    return play(env, first, lambda seen, rest: (next(actions), None), len(episode))


def _compare(logged: _Logged, values: dict[str, np.ndarray]) -> Drift:
    rows = len(values["observations"])  # fewer than logged if the episode now ends sooner
    apart = [
        _difference(before[:rows], values[key])
        for key, before in logged.observed.items()
        if key in values and before.shape[1:] == values[key].shape[1:]
    ]
    rewards = np.full(1, np.nan) if logged.episode.rewards is None else logged.episode.rewards
    return Drift(
        logged.episode.name,
        rows - 1,
        np.max(apart, 0) if apart else None,
        float(rewards.sum(dtype=np.float64)),
        float(values["rewards"][1:].sum()),
        any(value.dtype == np.float16 and np.isfinite(value).all() for value in logged.state.values()),
    )


def _difference(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """The largest difference in each row."""
    one, other = (values.reshape(len(values), -1).astype(np.float64) for values in (before, now))
    return (np.abs(other - one) / np.maximum(1.0, np.abs(one))).max(1, initial=0.0)

"""One episode, the same for every format, and the checks that all formats share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import attrs
import numpy as np

from rlhive.core.converters import strings
from rlhive.core.env_spec import SOLVED_STEPS
from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec


@attrs.frozen
class Selection:
    """What to read from a trial; by default what a policy without images needs.

    Attributes:
        pixels: the images; None for none. Other images in the file are not read.
        observation_keys: the parts of `env_infos/obs_dict` that make up the observation; if empty, the logged
            `observations` are read. For ids with images RoboHive's own recorder logs only the time there.
    """

    pixels: PixelSpec | None = None
    observation_keys: tuple[str, ...] = attrs.field(default=(), converter=strings)


STATE_ONLY = Selection()


@attrs.frozen(eq=False)
class Episode:
    """What happened in one episode of T steps.

    Attributes:
        name: of the trial.
        observations: float32 `[T + 1, O]`; the last one is the result of the last action.
        actions: float32 `[T, A]`.
        rewards: of each action, float32 `[T]`; None if none were logged.
        terminated: whether the step terminated the episode, bool `[T]`.
        solved: whether the task was solved after the step, bool `[T]`; None if it was not logged.
        times: seconds `[T + 1]` in the floating-point precision of the file; None if they were not logged.
        images: the selected ones, uint8 `[T + 1, cameras, H, W, 3]`; None without images.
    """

    name: str
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray | None
    terminated: np.ndarray
    solved: np.ndarray | None = None
    times: np.ndarray | None = None
    images: np.ndarray | None = None

    def __len__(self) -> int:
        """T."""
        return len(self.actions)

    @property
    def total_reward(self) -> float | None:
        """The sum of rewards, unscaled."""
        return None if self.rewards is None else float(self.rewards.sum(dtype=np.float64))

    @property
    def success(self) -> bool | None:
        """Whether the task was solved on more than 5 steps, as RoboHive counts it by default."""
        return None if self.solved is None else int(self.solved.sum()) > SOLVED_STEPS

    @property
    def period(self) -> float | None:
        """Median seconds from one step to the next; None if times were not logged."""
        return None if self.times is None else float(np.median(_periods(self.times)))

    @property
    def clock_rounding(self) -> float:
        """Seconds between the latest time and the next one in its precision; 0 for float64 and without times."""
        if self.times is None or self.times.dtype == np.float64:
            return 0.0
        with np.errstate(over="ignore"):  # infinite for the largest number of a precision
            return float(np.spacing(np.abs(self.times).max()))

    @property
    def gaps(self) -> int:
        """Steps at which the clock stands still, runs back, or jumps by more than 1.5 usual steps.

        In float16 and float32, only what goes beyond the rounding of the latest time counts.
        """
        if self.times is None:
            return 0
        periods, rounding = _periods(self.times), self.clock_rounding
        usual = np.median(periods)
        # Rounded times never run back, but repeat themselves where a step is shorter than their spacing.
        may_repeat = periods.any() and 0 < rounding >= usual
        behind = periods < 0 if may_repeat else periods <= 0
        return int((behind | (periods > 1.5 * usual + rounding)).sum())


def _periods(times: np.ndarray) -> np.ndarray:
    return np.diff(times.astype(np.float64))


def of_one_width(
    items: Iterable[Episode | LoadError], where: str | os.PathLike[str]
) -> Iterator[Episode | LoadError]:
    """The trials of a source; one whose widths differ from those of the first intact trial becomes an error.

    Args:
        items: an episode for each trial that can be read, an error for each of the others.
        where: the file, for messages.
    """
    first: tuple[str, tuple[int, int]] | None = None
    for item in items:
        if isinstance(item, Episode):
            first = first or (item.name, _widths(item))
            yield item if _widths(item) == first[1] else _differs(item, *first, where)
        else:
            yield item


def _widths(episode: Episode) -> tuple[int, int]:
    return episode.observations.shape[1], episode.actions.shape[1]


def _differs(
    episode: Episode, first: str, expected: tuple[int, int], where: str | os.PathLike[str]
) -> LoadError:
    own = _widths(episode)
    return LoadError(
        f"{where}: {episode.name}: has {own[0]} observations and {own[1]} actions per step, "
        f"{first} has {expected[0]} and {expected[1]}"
    )


def as_rows(values: np.ndarray, where: str) -> np.ndarray:
    """Finite numbers as float32 `[rows, width]`.

    Raises:
        LoadError: wrong number of dimensions, no column, or a number that is not finite.
    """
    check_rows(values, where)
    return _finite(values, where)


def check_rows(values: np.ndarray, where: str) -> None:
    """Refuses values that are not `[rows, width]`.

    Raises:
        LoadError: wrong number of dimensions, or no column.
    """
    if values.ndim != 2 or values.shape[1] == 0:
        raise LoadError(f"{where}: must have a row per step and at least one column, is {list(values.shape)}")


def check_length(values: np.ndarray, rows: int, where: str) -> None:
    """Refuses values with another number of rows.

    Raises:
        LoadError: the number of rows differs, or there are no rows.
    """
    if values.shape[:1] != (rows,):
        raise LoadError(f"{where}: must have {rows} rows, one for each state; is {list(values.shape)}")


def as_column(values: np.ndarray, rows: int, where: str) -> np.ndarray:
    """Finite numbers, one per row, as float32 `[rows]`.

    Raises:
        LoadError: wrong shape, or a number that is not finite.
    """
    if values.shape not in ((rows,), (rows, 1)):
        raise LoadError(f"{where}: must have one number for each of {rows} rows, is {list(values.shape)}")
    return _finite(values.reshape(rows), where)


def as_flags(values: np.ndarray, rows: int, where: str) -> np.ndarray:
    """Booleans, or numbers that are 0 or 1, one per row, as bool `[rows]`.

    Raises:
        LoadError: wrong shape, or a value other than 0 and 1.
    """
    numbers = as_column(values, rows, where)
    if not np.isin(numbers, (0.0, 1.0)).all():
        raise LoadError(f"{where}: must be 0 or 1 in each row")
    return numbers.astype(bool)


def _finite(values: np.ndarray, where: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        row, *column = map(int, np.argwhere(~np.isfinite(numbers))[0])
        number = f"{values[row, *column]}" + (f" at {column[0]}" if column else "")
        raise LoadError(f"{where}: row {row} has a number that is not finite in float32: {number}")
    return numbers

"""What stops a policy: faults and their exit codes, and checks of actions, sensors, joint positions and images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rlhive.envs.cameras import Image

# Exit codes of `python -m rlhive.deploy` by the reason why it stopped; docs/deployment.md explains each.
EXIT_CODES = {
    "finished": 0,
    "terminated": 0,
    "observation_not_finite": 10,
    "observation_wrong": 11,
    "action_not_finite": 12,
    "sensors_stale": 13,
    "sensors_frozen": 14,
    "robot_stalled": 15,
    "robot_failed": 16,
    "loop_failed": 17,
    "interrupted": 130,
}


class FaultError(RuntimeError):
    """The policy must not go on.

    Attributes:
        reason: one of `EXIT_CODES`.
        frozen_since: when what stands still last changed, on the clock of the reading; NaN for other faults.
    """

    def __init__(self, reason: str, message: str, frozen_since: float = math.nan) -> None:
        super().__init__(message)
        self.reason, self.frozen_since = reason, frozen_since


class Sensors(NamedTuple):
    """What one device measured: `values` `[n]`, and their `age` in seconds where the device says it, else NaN."""

    values: np.ndarray
    age: float


class _Latest:
    """The latest `values` of each device, and since when they stand still bit for bit."""

    def __init__(self) -> None:
        self.values: dict[str, np.ndarray] = {}
        self._changed: dict[str, float] = {}

    def update(self, now: float, name: str, values: np.ndarray) -> float:
        """Takes note of what a device sends, and returns since when it has sent the same."""
        if name not in self.values or not np.array_equal(values, self.values[name]):
            self._changed[name] = now
        self.values[name] = values
        return self._changed[name]


def _check_age(what: str, age: float, staleness: float) -> None:
    """Refuses what is too old, and what is stamped so far ahead that it would never be."""
    if age > staleness:
        raise FaultError("sensors_stale", f"{what} is {age:.3f} s old, more than {staleness:.3f} s")
    if age < -staleness:
        raise FaultError(
            "sensors_stale",
            f"{what} is stamped {-age:.3f} s in the future: robot and computer must agree on the time",
        )


class SensorWatch:
    """Finds sensors that are not finite, of another size, too old, or that stand still bit for bit.

    Args:
        staleness: seconds that a measurement may be old, for devices that say when they measured.
        frozen: seconds for which all values of a device with several sensors may stay the same in every bit.
    """

    def __init__(self, staleness: float, frozen: float) -> None:
        self._staleness, self._frozen = staleness, frozen
        self._latest = _Latest()

    def check(self, now: float, sensors: Mapping[str, Sensors]) -> None:
        """Looks at one reading of all devices, at `now` seconds of a clock that never goes back.

        Raises:
            FaultError: naming the device.
        """
        for name, (values, age) in sensors.items():
            before = self._latest.values.get(name, values)
            if values.shape != before.shape:
                message = f"{name} sends {values.size} values, but {before.size} before"
                raise FaultError("observation_wrong", message)
            if not np.isfinite(values).all():
                broken = ", ".join(map(str, np.flatnonzero(~np.isfinite(values))))
                raise FaultError("observation_not_finite", f"sensors {broken} of {name} are not finite")
            _check_age(f"the measurement of {name}", age, self._staleness)
            since = self._latest.update(now, name, values)
            if values.size > 1 and now - since > self._frozen:
                message = f"no value of {name} changed in any bit for {self._frozen:.3f} s"
                raise FaultError("sensors_frozen", message, since)


class PositionWatch:
    """Finds joints that are measured where no arm can be.

    Args:
        limits: of each actuator by its name: lower and upper limit, and how far `vel_range` lets it go in a period.
        dt: the control period, seconds.
    """

    def __init__(self, limits: Mapping[str, tuple[float, float, float]], dt: float) -> None:
        self._limits, self._dt = limits, dt
        self._rest: Mapping[str, float] = {}
        self._latest: dict[str, tuple[float, float]] = {}  # when it was where

    def start(self, rest: Mapping[str, float]) -> None:
        """Takes note of where the actuators were just before the first reading."""
        self._rest = rest

    def is_start(self, rest: Mapping[str, float], positions: Mapping[str, float]) -> bool:
        """Whether a reading of all actuators may be the first one, after they were at `rest`."""
        starts = {name: self._near_start(name, position) for name, position in rest.items()}
        # What is not finite is another watch's to find.
        return not any(abs(positions[name] - place) > most for name, (place, most) in starts.items())

    def _near_start(self, name: str, rest: float) -> tuple[float, float]:
        """The place within its limits at which an actuator at `rest` may start, and how far from there at most."""
        low, high, reach = self._limits[name]
        return min(max(rest, low), high), max(reach, 0.01 * (high - low))

    def check(self, now: float, positions: Mapping[str, float]) -> None:
        """Looks at one reading of all actuators, at `now` seconds of a clock that never goes back.

        The first one must be of an arm at rest, and as near to the limits as one step leads. A later one may differ
        from the one before by twice of what `vel_range` allows and a tenth of `pos_range`, for an arm may be pushed: in
        80 ms that is 7 rad/s for the Franka's shortest range, and still 4 rad/s with a `vel_range` of nearly nothing;
        its motors reach 2.6.

        Raises:
            FaultError: naming the actuator.
        """
        for name, position in positions.items():
            if name in self._latest:
                low, high, reach = self._limits[name]
                then, before = self._latest[name]
                most = 2 * reach * (now - then) / self._dt + 0.1 * (high - low)
                why = f"but at {before:.3f} {now - then:.3f} s before, which no arm does"
            else:
                before, most = self._near_start(name, self._rest[name])
                low, high, _ = self._limits[name]
                why = f"before at {self._rest[name]:.3f}: it must be at rest, in its pos_range [{low:g}, {high:g}]"
            if not abs(position - before) <= most:
                raise FaultError("observation_wrong", f"actuator {name} is measured at {position:.3f}, {why}")
            self._latest[name] = now, position


class ImageWatch:
    """Finds images that are missing, of another shape or dtype, too old, or that stand still bit for bit.

    Args:
        shape: of each image, (height, width, 3).
        staleness: seconds that an image may be old, for cameras that say when they took it.
        frozen: seconds for which a camera's image may stay the same in every bit.
    """

    def __init__(self, shape: tuple[int, int, int], staleness: float, frozen: float) -> None:
        self._shape, self._staleness, self._frozen = shape, staleness, frozen
        self._latest = _Latest()

    def check(self, now: float, images: Mapping[str, Image]) -> list[np.ndarray]:
        """Looks at the images of one reading, at `now` seconds of a clock that never goes back, and returns them.

        Raises:
            FaultError: naming the camera.
        """
        for name, (pixels, age) in images.items():
            if pixels is None:
                raise FaultError("observation_wrong", f"camera {name} shows no image")
            if pixels.dtype != np.uint8 or pixels.shape != self._shape:
                found, expected = f"{pixels.dtype} {list(pixels.shape)}", f"uint8 {list(self._shape)}"
                raise FaultError("observation_wrong", f"camera {name} shows {found}, expected {expected}")
            _check_age(f"the image of camera {name}", age, self._staleness)
            since = self._latest.update(now, name, pixels)
            if now - since > self._frozen:
                message = f"the image of camera {name} did not change in any bit for {self._frozen:.3f} s"
                raise FaultError("sensors_frozen", message, since)
        return list(self._latest.values.values())


def limit_action(
    action: np.ndarray,
    last: np.ndarray | None,
    low: np.ndarray,
    high: np.ndarray,
    max_delta: float | np.ndarray | None,
) -> np.ndarray:
    """The action `[A]` within its limits and no further than `max_delta` from the last one, in a new array.

    Args:
        action: what the policy wants.
        last: the action before it; None or NaN where there is none.
        low: lower limits, `[A]`.
        high: upper limits, `[A]`.
        max_delta: the most that an action may change per step, in its units, of all or of each `[A]`; None for any.

    Raises:
        FaultError: the action is not finite; clipping would hide that.
    """
    if not np.isfinite(action).all():
        raise FaultError("action_not_finite", f"the action is not finite: {action.tolist()}")
    if last is not None and max_delta is not None:
        reference = np.where(np.isfinite(last), last, action)
        action = np.clip(action, reference - max_delta, reference + max_delta)
    return np.clip(action, low, high)

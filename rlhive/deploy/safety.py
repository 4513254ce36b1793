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
        frozen_since: when frozen sensors or images last changed, on the readings' clock; NaN for other faults.
    """

    def __init__(self, reason: str, message: str, frozen_since: float = math.nan) -> None:
        super().__init__(message)
        self.reason, self.frozen_since = reason, frozen_since


class Sensors(NamedTuple):
    """What one device measured: `values` `[n]`, and their `age` in seconds, NaN if the device does not tell it."""

    values: np.ndarray
    age: float


class _Latest:
    """The latest `values` of each device, and since when no bit of them has changed."""

    def __init__(self) -> None:
        self.values: dict[str, np.ndarray] = {}
        self._changed: dict[str, float] = {}

    def update(self, now: float, name: str, values: np.ndarray) -> float:
        """Stores what a device sends, and returns since when it has sent the same."""
        if name not in self.values or not np.array_equal(values, self.values[name]):
            self._changed[name] = now
        self.values[name] = values
        return self._changed[name]


def _check_age(what: str, age: float, staleness: float) -> None:
    """Refuses what is too old, or stamped so far in the future that it would never seem old."""
    if age > staleness:
        raise FaultError("sensors_stale", f"{what} is {age:.3f} s old, more than {staleness:.3f} s")
    if age < -staleness:
        raise FaultError(
            "sensors_stale",
            f"{what} is stamped {-age:.3f} s in the future: robot and computer must agree on the time",
        )


class SensorWatch:
    """Finds sensors that are not finite, change their size, are too old, or are frozen.

    Args:
        staleness: maximum age of a measurement in seconds, for devices that tell it.
        frozen: seconds for which all values of a device with several sensors may stay the same in every bit.
    """

    def __init__(self, staleness: float, frozen: float) -> None:
        self._staleness, self._frozen = staleness, frozen
        self._latest = _Latest()

    def check(self, now: float, sensors: Mapping[str, Sensors]) -> None:
        """Checks one reading of all devices, taken at `now` seconds of a clock that never goes back.

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
        limits: by actuator name: lower limit, upper limit, and how far `vel_range` allows in one period.
        dt: the control period, seconds.
    """

    def __init__(self, limits: Mapping[str, tuple[float, float, float]], dt: float) -> None:
        self._limits, self._dt = limits, dt
        self._rest: Mapping[str, float] = {}
        self._latest: dict[str, tuple[float, float]] = {}  # when it was where

    def start(self, rest: Mapping[str, float]) -> None:
        """Stores where the actuators were just before the first reading."""
        self._rest = rest

    def is_start(self, rest: Mapping[str, float], positions: Mapping[str, float]) -> bool:
        """Whether a reading of all actuators may be the first one, given that they were at `rest` before."""
        starts = {name: self._near_start(name, position) for name, position in rest.items()}
        # Values that are not finite are left to `SensorWatch`.
        return not any(abs(positions[name] - place) > most for name, (place, most) in starts.items())

    def _near_start(self, name: str, rest: float) -> tuple[float, float]:
        """The place within its limits near which an actuator at `rest` must start, and the largest distance from it."""
        low, high, reach = self._limits[name]
        return min(max(rest, low), high), max(reach, 0.01 * (high - low))

    def check(self, now: float, positions: Mapping[str, float]) -> None:
        """Checks one reading of all actuators, taken at `now` seconds of a clock that never goes back.

        The first one must be of an arm at rest, outside its limits by at most one step. A later one may differ from the
        one before by twice what `vel_range` allows plus a tenth of `pos_range`, because an arm may be pushed: at 80 ms
        that is 7 rad/s for the Franka's shortest range, and 4 rad/s even with a tiny `vel_range`; its motors reach 2.6.

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
    """Finds images that are missing, have another shape or dtype, are too old, or are frozen.

    Args:
        shape: of each image, (height, width, 3).
        staleness: maximum age of an image in seconds, for cameras that tell it.
        frozen: seconds for which a camera's image may stay the same in every bit.
    """

    def __init__(self, shape: tuple[int, int, int], staleness: float, frozen: float) -> None:
        self._shape, self._staleness, self._frozen = shape, staleness, frozen
        self._latest = _Latest()

    def check(self, now: float, images: Mapping[str, Image]) -> list[np.ndarray]:
        """Checks and returns the images of one reading, taken at `now` seconds of a clock that never goes back.

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
    """Clips the action `[A]` to its limits and to `max_delta` around the last one; returns a new array.

    Args:
        action: what the policy wants.
        last: the action before it; None, or NaN for some actuators, if there is none.
        low: lower limits, `[A]`.
        high: upper limits, `[A]`.
        max_delta: largest change per step in the action's units, for all or for each `[A]`; None for no limit.

    Raises:
        FaultError: the action is not finite, which clipping would hide.
    """
    if not np.isfinite(action).all():
        raise FaultError("action_not_finite", f"the action is not finite: {action.tolist()}")
    if last is not None and max_delta is not None:
        reference = np.where(np.isfinite(last), last, action)
        action = np.clip(action, reference - max_delta, reference + max_delta)
    return np.clip(action, low, high)

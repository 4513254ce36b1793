"""What the robot shows at one time: observation, sensors, joint positions and images."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np

from rlhive.deploy.safety import FaultError, Sensors
from rlhive.envs.cameras import Image


class Reading(NamedTuple):
    """What the robot shows at one time.

    Attributes:
        time: when it was read, seconds of `time.monotonic`.
        observation: the parts by name, each as RoboHive has it.
        sensors: measurements by device; empty in simulation, where nothing can be old.
        positions: by configured actuator, in its units; empty in simulation.
        images: by camera of the policy.
        reward: RoboHive's dense reward.
        done: whether the episode has ended.
        solved: whether RoboHive calls the task solved.
    """

    time: float
    observation: dict[str, np.ndarray]
    sensors: dict[str, Sensors]
    positions: dict[str, float]
    images: dict[str, Image]
    reward: float
    done: bool
    solved: bool

    def oldest(self) -> float:
        """Age of the oldest measurement or image, seconds; NaN if none has a time stamp."""
        ages = [age for _, age in (*self.sensors.values(), *self.images.values())]
        return float(np.fmax.reduce(ages, initial=np.nan))


def unmasked(name: str, values: Any) -> np.ndarray:
    """A plain copy; refuses masks, since masked values would pass for measurements once the mask is dropped."""
    if isinstance(values, np.ma.MaskedArray):
        raise FaultError("observation_wrong", f"{name} is a masked array, expected a plain one")
    if np.iscomplexobj(values):
        raise FaultError("observation_wrong", f"{name} is complex, expected real numbers")
    return np.array(values)


def age(device: dict[str, Any], time_start: float) -> float:
    """Upper bound on the age of a device's measurement, by its own time stamp, in seconds; NaN if it has none.

    Drivers only give the current stamp, not that of the measurement, which was taken some time before.
    """
    robot = getattr(device["robot"], "robot", None)
    read = getattr(robot, "get_robot_state", None) or getattr(robot, "get_state", None)
    if read is None:
        return math.nan
    stamp, now = read().timestamp, time.time()
    since_measured = now - time_start - device["sensor_time"]
    return now - (stamp.seconds + 1e-9 * stamp.nanos) + since_measured

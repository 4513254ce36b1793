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
        sensors: of each device; empty in simulation, where nothing can be old.
        positions: of each configured actuator, in its units; empty in simulation.
        images: of each of the policy's cameras.
        reward: RoboHive's dense reward.
        done: the episode has ended.
        solved: RoboHive's word on the task.
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
        """Age of the oldest measurement or image that has one, seconds; NaN where none has."""
        ages = [age for _, age in (*self.sensors.values(), *self.images.values())]
        return float(np.fmax.reduce(ages, initial=np.nan))


def unmasked(name: str, values: Any) -> np.ndarray:
    """A copy; what a mask hides would pass for a measurement once the mask is dropped."""
    if isinstance(values, np.ma.MaskedArray):
        raise FaultError("observation_wrong", f"{name} is a masked array, expected a plain one")
    if np.iscomplexobj(values):
        raise FaultError("observation_wrong", f"{name} is complex, expected real numbers")
    return np.array(values)


def age(device: dict[str, Any], time_start: float) -> float:
    """The most that a device's measurement may be old, by its own time stamp, in seconds; NaN where it has none.

    The drivers give the stamp of now alone, not that of the measurement, which was taken some time before.
    """
    robot = getattr(device["robot"], "robot", None)
    read = getattr(robot, "get_robot_state", None) or getattr(robot, "get_state", None)
    if read is None:
        return math.nan
    stamp, now = read().timestamp, time.time()
    since_measured = now - time_start - device["sensor_time"]
    return now - (stamp.seconds + 1e-9 * stamp.nanos) + since_measured

"""RoboHive's drivers: what they measure, what they must not do by themselves, and which actuators they have."""

from __future__ import annotations

from typing import Any

from rlhive.deploy.safety import FaultError

INTERFACES = ("dynamixel", "franka", "optitrack", "realsense", "robotiq")  # that RoboHive has drivers for
# What they measure; a Dynamixel what it is asked for.
FRANKA_JOINTS = 7  # as many positions, then as many velocities
POSE = ("x", "y", "z", "rx", "ry", "rz")  # of OptiTrack, in metres and radians
VALUES = {"realsense": 0, "robotiq": 1}


def actuators(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The actuators of a robot's configuration, in the order of the file."""
    return [actuator for device in config.values() for actuator in device["actuator"]]


def release(env: Any) -> None:
    """Lets hardware go as it is: RoboHive's own closing, also at exit, would first move it home.

    Args:
        env: a live RoboHive environment, wrapped or not; anything else is left alone.
    """
    robot: Any = getattr(getattr(env, "unwrapped", env), "robot", None)
    if getattr(robot, "is_hardware", False):
        let_go(robot)


def let_go(robot: Any) -> None:
    """Takes from RoboHive's `Robot` and its drivers what they would move the hardware by; twice does no harm."""
    for device in (robot.robot_config or {}).values():
        if hasattr(device.get("robot"), "robot"):
            device["robot"].robot = None
    robot.robot_config = None


def refuse_reconnecting(driver: Any) -> None:
    """Makes a fault of a lost connection, where RoboHive's driver has a way of its own to get it back."""

    def refuse() -> None:
        raise FaultError(
            "robot_failed", "the connection is lost; RoboHive would move the robot home to reconnect"
        )

    if hasattr(driver, "reconnect"):
        driver.reconnect = refuse

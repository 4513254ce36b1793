"""RoboHive's drivers: what they measure, what they must not do on their own, and which actuators they have."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

from rlhive.deploy.safety import FaultError
from rlhive.envs.importing import quiet

INTERFACES = ("dynamixel", "franka", "optitrack", "realsense", "robotiq")  # that RoboHive has drivers for
# What they measure; a Dynamixel measures what it is asked for.
FRANKA_JOINTS = 7  # that many positions, then that many velocities
POSE = ("x", "y", "z", "rx", "ry", "rz")  # of OptiTrack, in metres and radians
VALUES = {"realsense": 0, "robotiq": 1}


def actuators(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The actuators of a robot's configuration, in the order of the file."""
    return [actuator for device in config.values() for actuator in device["actuator"]]


def import_optitrack() -> None:
    """Imports RoboHive's OptiTrack driver, which looks for its base class in RoboHive's former package."""
    former = "darwin.darwin_robot.hardware_base"
    sys.modules.setdefault(former, importlib.import_module("robohive.robot.hardware_base"))
    importlib.import_module("robohive.robot.hardware_optitrack")


def keep_still(driver: Any) -> None:
    """Takes from a new driver what it would do to the robot on its own.

    To get a lost connection back it would move the robot home; that becomes a fault. Closing, which a driver also does
    when it fails or is collected, would move an arm home and switch Dynamixels off; it does nothing any more.
    """

    def refuse() -> None:
        raise FaultError(
            "robot_failed", "the connection is lost; RoboHive would move the robot home to reconnect"
        )

    if hasattr(driver, "reconnect"):
        driver.reconnect = refuse
    driver.close = lambda *_: True


def answers(device: dict[str, Any]) -> bool:
    """Whether a connected device of a configuration sends something."""
    driver = device["robot"]
    # OptiTrack's driver is content with its own socket.
    is_silent = device["interface"]["type"] == "optitrack" and not hasattr(driver, "sensor_data")
    return driver.okay() and not is_silent


def forget_broken_command(robot: Any) -> None:
    """Lets the Dynamixels of RoboHive's `Robot` be sent a command after one that was broken off.

    What their driver had collected for that one is still there, and makes it refuse the next.
    """
    functions = sys.modules.get("dynamixel_functions")
    for device in robot.robot_config.values():
        if functions is not None and hasattr(device["robot"], "group_desPos"):
            functions.groupSyncWriteClearParam(device["robot"].group_desPos)


def release(env: Any) -> None:
    """Leaves hardware as it is, for good; RoboHive's own closing, also at exit, would first move it home.

    Args:
        env: a live RoboHive environment, wrapped or not; anything else is left alone.
    """
    robot: Any = getattr(getattr(env, "unwrapped", env), "robot", None)
    if getattr(robot, "is_hardware", False):
        let_go(robot)


def let_go(robot: Any) -> None:
    """Takes from RoboHive's `Robot` its drivers, and from them their connections; calling it twice does no harm."""
    for device in (robot.robot_config or {}).values():
        driver = device.get("robot")
        if hasattr(driver, "robot"):
            driver.robot = None
        if hasattr(driver, "read_thread"):
            _stop_reading(driver)
    robot.robot_config = None


def _stop_reading(optitrack: Any) -> None:
    """Ends the thread of an OptiTrack driver, which waits for a packet and keeps the process from ending."""
    client = optitrack._OPTI_CLIENT
    optitrack.poll = False
    with contextlib.suppress(OSError), quiet():
        client.sendto(bytes(optitrack.packet_size), client.getsockname())  # the packet that it waits for
        optitrack.read_thread.join(timeout=1.0)


def one_line(error: BaseException) -> str:
    """Type and message of what RoboHive raised, without what gymnasium appends: all settings of the environment."""
    text = " ".join(str(error).split()).partition(" was raised from the environment creator")[0]
    return f"{type(error).__name__}: {text}"


def in_words(error: BaseException) -> str:
    """One line for what RoboHive or a driver raised of a connected robot."""
    if isinstance(error, SystemExit):  # a driver's way of giving up is to quit Python
        return "the driver gave up" + (f": {error.code}" if isinstance(error.code, str) else "")
    if "Simulation starts in a done state" in str(error):
        return (
            "the robot is where an episode would be over, as if it lay on its back; put it where one starts"
        )
    return one_line(error)

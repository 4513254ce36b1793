"""RoboHive's drivers: what they measure, and how to keep them from moving the robot on their own."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
from types import SimpleNamespace
from typing import Any

from rlhive.deploy.safety import FaultError
from rlhive.envs.importing import quiet

INTERFACES = ("dynamixel", "franka", "optitrack", "realsense", "robotiq")  # RoboHive's drivers
# The values that each returns; Dynamixels return those that are asked for.
FRANKA_JOINTS = 7  # the positions of all joints, then their velocities
POSE = ("x", "y", "z", "rx", "ry", "rz")  # OptiTrack, in metres and radians
VALUES = {"realsense": 0, "robotiq": 1}


def actuators(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The actuators in a robot's configuration, in the order of the file."""
    return [actuator for device in config.values() for actuator in device["actuator"]]


def import_optitrack() -> None:
    """Imports RoboHive's OptiTrack driver, which looks for its base class in RoboHive's former package.

    The driver's thread, which waits for packets without end, becomes a daemon, so that Python can end.
    """
    former = "darwin.darwin_robot.hardware_base"
    sys.modules.setdefault(former, importlib.import_module("robohive.robot.hardware_base"))
    driver: Any = importlib.import_module("robohive.robot.hardware_optitrack")
    driver.threading = SimpleNamespace(Thread=functools.partial(threading.Thread, daemon=True))


def keep_still(driver: Any) -> None:
    """Keeps a new driver from moving the robot on its own.

    To reconnect, drivers would move the robot home; that raises a fault instead. Closing would move an arm home and
    switch Dynamixels off, and drivers also close when they fail or are garbage-collected; it does nothing instead.
    """

    def refuse() -> None:
        raise FaultError(
            "robot_failed", "the connection is lost; RoboHive would move the robot home to reconnect"
        )

    if hasattr(driver, "reconnect"):
        driver.reconnect = refuse
    driver.close = lambda *_: True


def answers(device: dict[str, Any]) -> bool:
    """Whether a connected device returns measurements."""
    driver = device["robot"]
    # OptiTrack's driver only checks its own socket.
    is_silent = device["interface"]["type"] == "optitrack" and not hasattr(driver, "sensor_data")
    return driver.okay() and not is_silent


def forget_broken_command(robot: Any) -> None:
    """Clears what is left in the Dynamixel drivers of RoboHive's `Robot` from a command whose sending was interrupted.

    Otherwise they would refuse the next command.
    """
    functions = sys.modules.get("dynamixel_functions")
    for device in robot.robot_config.values():
        if functions is not None and hasattr(device["robot"], "group_desPos"):
            functions.groupSyncWriteClearParam(device["robot"].group_desPos)


def release(env: Any) -> None:
    """Disconnects from hardware and leaves it as it is.

    Args:
        env: a live RoboHive environment, wrapped or not; anything else is ignored.
    """
    robot: Any = getattr(getattr(env, "unwrapped", env), "robot", None)
    if getattr(robot, "is_hardware", False):
        let_go(robot)


def let_go(robot: Any) -> None:
    """Disconnects RoboHive's `Robot` from its drivers; calling it twice does no harm."""
    for device in (robot.robot_config or {}).values():
        driver = device.get("robot")
        if hasattr(driver, "robot"):
            driver.robot = None
        if hasattr(driver, "read_thread"):
            _stop_reading(driver)
    robot.robot_config = None


def _stop_reading(optitrack: Any) -> None:
    """Ends the thread of an OptiTrack driver, which otherwise waits for packets and keeps its port taken."""
    client = optitrack._OPTI_CLIENT
    optitrack.poll = False
    with contextlib.suppress(OSError), quiet():
        client.sendto(bytes(optitrack.packet_size), client.getsockname())  # wakes it up
        optitrack.read_thread.join(timeout=1.0)


def one_line(error: BaseException) -> str:
    """Type and message of an exception from RoboHive, without the environment's settings that gymnasium appends."""
    text = " ".join(str(error).split()).partition(" was raised from the environment creator")[0]
    return f"{type(error).__name__}: {text}"


def in_words(error: BaseException) -> str:
    """One line for an exception from RoboHive or a driver while a robot is connected."""
    if isinstance(error, SystemExit):  # the driver of Dynamixels quits Python when something fails
        return "the driver gave up" + (f": {error.code}" if isinstance(error.code, str) else "")
    if "Simulation starts in a done state" in str(error):
        return "the robot is in a pose that ends an episode, such as on its back; put it in a starting pose"
    return one_line(error)

"""Checks that sensors match what their driver returns: RoboHive reads them by their order, or by motor ids."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from rlhive.deploy.drivers import FRANKA_JOINTS, POSE, VALUES

# In radians or metres: constants are often rounded by hand, to 3.14 or 4.71 for example.
_CLOSE = 1e-2


def is_close(found: Any, expected: Any) -> bool:
    """Whether calibrations are the same, apart from rounding by hand."""
    return np.allclose(found, expected, rtol=0.0, atol=_CLOSE)


def measured_joint(env: Any, sensor: dict[str, Any]) -> int | None:
    """The joint whose position a sensor measures; None if it measures something else."""
    return _joint(env, sensor) if sensor["data_type"] == "qpos" else None


def moved_joint(env: Any, actuator: dict[str, Any]) -> int:
    """The joint that an actuator moves."""
    return int(env.sim.model.actuator_trnid[actuator["sim_id"], 0])


def misplaced(env: Any) -> list[str]:
    """What is wrong with the sensors, one line each; `env` is a simulation with the robot's configuration."""
    config = env.robot.robot_config
    counts = Counter(sensor["name"] for device in config.values() for sensor in device["sensor"])
    lines = [f"sensor {name} is listed {count} times" for name, count in counts.items() if count > 1]
    for name, device in config.items():
        kind = device["interface"]["type"]
        if kind == "dynamixel":
            lines += _other_motors(env, name, device) or _velocities(name, device)
            continue
        places = _other_places(env, name, device)
        if kind == "franka":
            lines += places or _no_arm(env, name, device)
        elif kind == "optitrack":
            lines += places or _no_pose(env, name, device)
        else:
            lines += places or _velocities(name, device) or _too_many(name, device)
    return lines


def _joint(env: Any, sensor: dict[str, Any]) -> int:
    return int(env.sim.model.sensor_objid[sensor["sim_id"]])


def _other_places(env: Any, name: str, device: dict[str, Any]) -> list[str]:
    """The actuators not measured in their own place: these drivers return joints in the order of the actuators."""
    lines = []
    measured = [measured_joint(env, sensor) for sensor in device["sensor"]]
    for place, actuator in enumerate(device["actuator"]):
        if measured[place : place + 1] != [moved_joint(env, actuator)]:
            found = device["sensor"][place]["name"] if place < len(measured) else "missing"
            lines.append(f"sensor {place + 1} of {name} must measure {actuator['name']}, but is {found}")
    return lines


def _other_motors(env: Any, name: str, device: dict[str, Any]) -> list[str]:
    """The motors not measured under their own id, by which RoboHive asks for them; the order does not matter."""
    lines = []
    for kind in ("sensor", "actuator"):
        counts = Counter(part["hdr_id"] for part in device[kind])
        lines += [f"{count} {kind}s of {name} have hdr_id {i}" for i, count in counts.items() if count > 1]
    sensors = {measured_joint(env, sensor): sensor for sensor in device["sensor"]}
    for actuator in device["actuator"]:
        sensor, wanted = sensors.get(moved_joint(env, actuator)), actuator["hdr_id"]
        if sensor is None:
            lines.append(f"no sensor of {name} measures {actuator['name']}")
        elif sensor["hdr_id"] != wanted:
            lines.append(
                f"sensor {sensor['name']} of {name} must have the hdr_id {wanted} of {actuator['name']}, but "
                f"has {sensor['hdr_id']}"
            )
    return lines


def _no_arm(env: Any, name: str, device: dict[str, Any]) -> list[str]:
    """What differs from a Franka's driver, which returns the positions of its joints, then their velocities."""
    positions, velocities = device["sensor"][:FRANKA_JOINTS], device["sensor"][FRANKA_JOINTS:]
    if not positions:
        return []
    joints = [measured_joint(env, sensor) for sensor in positions]
    moving = [_joint(env, sensor) if sensor["data_type"] == "qvel" else None for sensor in velocities]
    if len(joints) != FRANKA_JOINTS or None in joints or moving != joints[: len(moving)]:
        return [
            f"sensors of {name}: {_names(device)}, but a Franka returns the positions of its {FRANKA_JOINTS} joints, "
            "then their velocities in the same order"
        ]
    return [
        f"sensor {moved['name']} of {name} must have scale {placed['scale']} and offset 0, as the velocity of the "
        f"joint that {placed['name']} measures, but has {moved['scale']} and {moved['offset']}"
        for placed, moved in zip(positions, velocities, strict=False)
        if not is_close([moved["scale"], moved["offset"]], [placed["scale"], 0.0])
    ]


def _no_pose(env: Any, name: str, device: dict[str, Any]) -> list[str]:
    """What differs from OptiTrack's driver, which returns one pose; RoboHive takes a value for each sensor."""
    found = tuple(_coordinate(env, sensor) for sensor in device["sensor"])
    if found == POSE[: len(found)]:
        return []
    return [f"sensors of {name}: {_names(device)}, but OptiTrack returns {', '.join(POSE)} in this order"]


def _coordinate(env: Any, sensor: dict[str, Any]) -> str | None:
    """Which coordinate of `POSE` a sensor measures; None if it measures a velocity."""
    import mujoco

    model, joint = env.sim.model, measured_joint(env, sensor)
    if joint is None:
        return None
    axis = "xyz"[int(np.argmax(np.abs(model.jnt_axis[joint])))]
    return f"r{axis}" if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE else axis


def _velocities(name: str, device: dict[str, Any]) -> list[str]:
    """The sensors of velocities, to which RoboHive would assign positions, one line each."""
    return [
        f"sensor {sensor['name']} of {name} measures a velocity, which RoboHive does not read there; leave it out"
        for sensor in device["sensor"]
        if sensor["data_type"] == "qvel"
    ]


def _too_many(name: str, device: dict[str, Any]) -> list[str]:
    kind, count = device["interface"]["type"], len(device["sensor"])
    if count <= VALUES.get(kind, count):
        return []
    return [f"{name} lists {count} sensors, but a {kind} returns {VALUES[kind]} values"]


def _names(device: dict[str, Any]) -> str:
    return ", ".join(sensor["name"] for sensor in device["sensor"])

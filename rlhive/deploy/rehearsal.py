"""Checks a robot's configuration without the robot: whether it matches its environment and policy.

RoboHive sends commands and names measurements by the order of actuators and sensors in the file. It does not notice a
wrong order, range or calibration, which would move the robot elsewhere.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from rlhive.deploy.drivers import INTERFACES, actuators, one_line
from rlhive.deploy.sensors import is_close, measured_joint, misplaced, moved_joint
from rlhive.deploy.settings import Settings, check_act_mode
from rlhive.envs.build import action_names, make_bare
from rlhive.envs.importing import quiet

if TYPE_CHECKING:
    from rlhive.policy_fn.policy import Policy

LOG = logging.getLogger("rlhive.deploy")


class _Trained(NamedTuple):
    """What the environment's own configuration, used in training, says.

    Attributes:
        ranges: from `_ranges`.
        calibrations: from `_calibrations`.
        sensors: their names in order; empty if the environment has no configuration.
    """

    ranges: dict[str, str]
    calibrations: dict[str, tuple[float, float]]
    sensors: list[str]


def rehearse(
    name: str, config_path: str | os.PathLike[str], policy: Policy | None, settings: Settings | None
) -> None:
    """Builds the environment in simulation with a robot's configuration; compares it with policy and settings.

    Args:
        name: id of RoboHive's suites.
        config_path: the configuration file.
        policy: the policy that will run, if known.
        settings: how it will run, if known.

    Raises:
        ValueError: the file does not configure this robot, or would measure or move something else than in training.
    """
    try:
        with quiet():
            env, _ = make_bare(name, is_hardware=False, config_path=str(config_path))
            config = env.robot.robot_config
            interfaces = [device["interface"]["type"] for device in config.values()]
            calibrations, misread = _calibrations(env), misplaced(env)
    except (Exception, SystemExit) as error:  # the file is code, and RoboHive quits at what it does not know
        raise ValueError(not_a_configuration(config_path, error)) from None
    if not interfaces:
        raise ValueError(f"{config_path}: is not a configuration of this robot: it names no device")
    if unknown := sorted(set(map(str, interfaces)) - set(INTERFACES)):
        known = ", ".join(INTERFACES)
        raise ValueError(f"{config_path}: unknown interface {unknown[0]!r}; RoboHive has {known}")
    if settings is not None:
        check_act_mode(settings, env.robot._act_mode)
    _check_actuators(config_path, env)
    lines = [] if policy is None else _compare_policy(policy, env)
    if not lines:
        trained = _trained(name if policy is None else policy.spec.env.name)
        lines = [*_rescaled(env, trained), *_recalibrated(calibrations, trained)] or misread
        if not lines:
            _tell_unmeasured(env, trained)
    if lines:
        what = "the configuration" if policy is None else "the policy"
        raise ValueError(f"{what} does not fit the robot: {'; '.join(lines)}")
    env.close()


def not_a_configuration(config_path: str | os.PathLike[str], error: BaseException) -> str:
    """One line for an exception that a configuration caused in RoboHive."""
    return f"{config_path}: is not a configuration of this robot: {one_line(error)}"


def _compare_policy(policy: Policy, env: Any) -> list[str]:
    """The differences between policy and environment, one line each; cameras are those of the configuration."""
    from rlhive.policy_fn.compare import differences

    lines = differences(attrs.evolve(policy.spec.env, pixels=None), env)
    config = env.robot.robot_config
    for name in policy.spec.env.pixels.cameras if policy.spec.env.pixels else ():
        if name not in config:
            lines.append(f"camera {name}: missing")
        elif config[name]["interface"].get("d_topic"):
            # RoboHive's driver has one time stamp for both, so a new depth image would make an old image look new.
            lines.append(f"camera {name}: leave out its d_topic, policies see no depth")
    return lines


def _check_actuators(config_path: str | os.PathLike[str], env: Any) -> None:
    known = actuators(env.robot.robot_config)
    for actuator in known:
        low, high = actuator["pos_range"]
        if not low < high:
            name = actuator["name"]
            raise ValueError(f"{config_path}: pos_range of {name} is [{low}, {high}], expected low < high")
    places = [actuator["sim_id"] for actuator in known]
    if places != list(range(len(places))):
        order = ", ".join(action_names(env)[: max(places) + 1])
        raise ValueError(f"{config_path}: list the actuators in the order {order}, each once")
    for name, device in env.robot.robot_config.items():
        modes = {str(actuator.get("mode")) for actuator in device["actuator"]}
        if device["interface"]["type"] == "dynamixel" and modes - {"Position"}:
            raise ValueError(
                f"{config_path}: actuators of {name} have the mode {', '.join(sorted(modes))}, expected each to say "
                "'mode': 'Position', which RoboHive sets its motors to"
            )
        if device["interface"]["type"] == "dynamixel":
            _check_turn(config_path, device["actuator"])


def _check_turn(config_path: str | os.PathLike[str], dynamixels: list[dict[str, Any]]) -> None:
    """Refuses positions that the driver of Dynamixels would clip silently."""
    for actuator in dynamixels:
        ends = [end * actuator["scale"] + actuator["offset"] for end in actuator["pos_range"]]
        if not (min(ends) >= 0.0 and max(ends) <= 2 * math.pi):
            raise ValueError(
                f"{config_path}: with scale and offset, pos_range of {actuator['name']} is [{min(ends):.4g}, "
                f"{max(ends):.4g}] for the motor, which turns from 0 to 2 pi: mount its horn so that it stays within"
            )


def _rescaled(env: Any, trained: _Trained) -> list[str]:
    """The actuators for which an action would mean something else than in training, one line each."""
    return [
        f"actuator {name}: {found}, but {trained.ranges.get(name, 'none')} in training; actions are scaled to it"
        for name, found in _ranges(env).items()
        if found != trained.ranges.get(name)
    ]


def _recalibrated(calibrations: dict[str, tuple[float, float]], trained: _Trained) -> list[str]:
    """The actuators that would be measured in another place than they were sent to, one line each."""
    lines = []
    for name, found in calibrations.items():
        expected = trained.calibrations.get(name, (1.0, 0.0))
        if not is_close(found, expected):
            lines.append(
                f"actuator {name}: sent to x, it would be measured at {_line(found)}, but at {_line(expected)} in "
                "training; check scale and offset of the actuator and its sensor"
            )
    return lines


def _tell_unmeasured(env: Any, trained: _Trained) -> None:
    """Warns of sensors that were there in training and that no device has."""
    listed = {name for device in env.robot.robot_config.values() for name in device["sensor_names"]}
    if missing := [name for name in trained.sensors if name not in listed]:
        LOG.warning(
            "no device measures %s: the policy observes their values in the simulation instead",
            ", ".join(missing),
        )


@functools.cache
def _trained(name: str) -> _Trained:
    from gymnasium.error import UnregisteredEnv

    try:
        with quiet():
            env, _ = make_bare(name)
    except UnregisteredEnv:
        raise ValueError(
            f"the policy was trained on {name}, which is not installed here, so its ranges cannot be compared"
        ) from None
    ranges, calibrations, sensors = _ranges(env), {}, []
    if "default_robot" not in env.robot.robot_config:
        calibrations = _calibrations(env)
        sensors = [name for device in env.robot.robot_config.values() for name in device["sensor_names"]]
    env.close()
    return _Trained(ranges, calibrations, sensors)


def _ranges(env: Any) -> dict[str, str]:
    """The range that actions from -1 to 1 are scaled to, by the actuator's name, as "pos_range [-1.0, 1.0]".

    Empty if actions are not normalised.
    """
    robot = env.robot
    if not env.normalize_act:
        return {}
    if "default_robot" in robot.robot_config:
        limits = env.sim.model.actuator_ctrlrange.tolist()
        known = dict(zip(action_names(env), limits, strict=True))
    else:
        known = {
            actuator["name"]: actuator[f"{robot._act_mode}_range"]
            for actuator in actuators(robot.robot_config)
        }
    return {name: f"{robot._act_mode}_range {[float(limit) for limit in known[name]]}" for name in known}


def _calibrations(env: Any) -> dict[str, tuple[float, float]]:
    """Scale and offset from the position that each actuator is sent to, by name, to the position measured there.

    RoboHive sends the driver `control * scale + offset`, and applies the sensor's scale and offset to its answer.
    """
    found = {}
    for device in env.robot.robot_config.values():
        sensors = {measured_joint(env, sensor): sensor for sensor in device["sensor"]}
        for actuator in device["actuator"]:
            if sensor := sensors.get(moved_joint(env, actuator)):
                scale = sensor["scale"] * actuator["scale"]
                offset = sensor["scale"] * actuator["offset"] + sensor["offset"]
                found[actuator["name"]] = (scale, offset)
    return found


def _line(calibration: tuple[float, float]) -> str:
    scale, offset = calibration
    return f"{scale:.4g}x" if is_close(offset, 0.0) else f"{scale:.4g}x{offset:+.4g}"

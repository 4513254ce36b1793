"""RoboHive's environments for the control loop: simulated, or connected to hardware with nothing sent to it."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs

from rlhive.core.pixel_spec import PixelSpec
from rlhive.deploy.drivers import actuators, let_go, refuse_reconnecting
from rlhive.deploy.robot import RESET_SECONDS
from rlhive.deploy.safety import watchdog
from rlhive.deploy.settings import Settings, check_act_mode
from rlhive.envs.build import action_names, make_bare
from rlhive.envs.importing import quiet

if TYPE_CHECKING:
    from rlhive.policy_fn.policy import Policy

INTERFACES = ("dynamixel", "franka", "optitrack", "realsense", "robotiq")  # that RoboHive has drivers for


def simulate(name: str, seed: int, pixels: PixelSpec | None = None) -> Any:
    """The environment `name` simulated; `seed` decides its episodes, `pixels` are the images that a policy sees.

    Raises:
        ValueError: no such environment or camera.
        RuntimeError: there are images, and no GL backend works here.
    """
    from rlhive.envs.robohive import RoboHive

    return RoboHive(name, seed=seed, pixels=pixels).env


def connect(
    name: str,
    config_path: str | os.PathLike[str],
    *,
    policy: Policy | None = None,
    settings: Settings | None = None,
    timeout: float = RESET_SECONDS,
) -> Any:
    """The environment `name` on hardware, connected, with nothing sent to it but what the drivers do to connect.

    That may be a movement: RoboHive's driver of the Franka arm moves it home. So all that can be known without the
    robot is looked at before, with the same configuration in simulation.

    Args:
        name: id of RoboHive's suites.
        config_path: RoboHive's configuration of the robot: devices, sensors, actuators. It is Python that RoboHive
            evaluates: trust it as you trust code.
        policy: what is to run there; nothing is connected where it does not fit.
        settings: how it is to run; nothing is connected where they do not fit how the robot is actuated.
        timeout: seconds after which a device that does not answer is given up.

    Raises:
        ValueError: no such environment or file, a file that is no configuration of its robot, lists the actuators in
            another order or with other ranges than those of training, a policy that does not fit (every difference
            is named), or a safe action for a robot whose actions are velocities.
        RuntimeError: a driver is not installed, or a device does not answer.
    """
    from rlhive.envs.names import check_name
    from rlhive.envs.simhive import ensure

    check_name(name)
    if not os.path.isfile(config_path):
        raise ValueError(f"{config_path}: there is no such robot configuration")
    ensure()
    _rehearse(name, config_path, policy, settings)
    try:
        with quiet(), _nothing_sent(), watchdog(timeout, "connecting"):
            env, _ = make_bare(name, is_hardware=True, config_path=str(config_path))
    except ImportError as error:
        raise RuntimeError(f"a driver of the robot is not installed: {error}") from None
    except (LookupError, TypeError) as error:  # settings of an interface, which the drivers alone know
        raise ValueError(_not_a_configuration(config_path, error)) from None
    return env


def _rehearse(
    name: str, config_path: str | os.PathLike[str], policy: Policy | None, settings: Settings | None
) -> None:
    """Builds the environment in simulation with the robot's configuration; compares it with policy and settings."""
    from rlhive.policy_fn.compare import differences

    try:
        with quiet():
            env, _ = make_bare(name, is_hardware=False, config_path=str(config_path))
            config = env.robot.robot_config
            interfaces = [device["interface"]["type"] for device in config.values()]
    except (Exception, SystemExit) as error:  # it is code, and RoboHive quits at what it does not know
        raise ValueError(_not_a_configuration(config_path, error)) from None
    if not interfaces:
        raise ValueError(f"{config_path}: is no configuration of this robot: it names no device")
    if unknown := sorted(set(map(str, interfaces)) - set(INTERFACES)):
        known = ", ".join(INTERFACES)
        raise ValueError(f"{config_path}: unknown interface {unknown[0]!r}; RoboHive has {known}")
    if settings is not None:
        check_act_mode(settings, env.robot._act_mode)
    _check_actuators(config_path, env)
    lines = []
    if policy is not None:
        cameras = policy.spec.env.pixels.cameras if policy.spec.env.pixels else ()
        lines = differences(attrs.evolve(policy.spec.env, pixels=None), env)
        # Those of the configuration: the simulation has other cameras.
        lines += [f"camera {name}: missing" for name in cameras if name not in config]
    if not lines:
        lines = _rescaled(env, _trained_ranges(name if policy is None else policy.spec.env.name))
    if lines:
        what = "the configuration" if policy is None else "the policy"
        raise ValueError(f"{what} does not fit the robot: {'; '.join(lines)}")
    env.close()


def _check_actuators(config_path: str | os.PathLike[str], env: Any) -> None:
    """RoboHive writes a command by the actuator's place in the file and reads it by its place in the simulation."""
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


def _rescaled(env: Any, trained: dict[str, str]) -> list[str]:
    """The actuators of which an action would ask for something else than in training, one line each."""
    return [
        f"actuator {name}: {found}, but {trained.get(name, 'none')} in training; an action is a place within it"
        for name, found in _ranges(env).items()
        if found != trained.get(name)
    ]


@functools.cache
def _trained_ranges(name: str) -> dict[str, str]:
    from gymnasium.error import UnregisteredEnv

    try:
        with quiet():
            env, _ = make_bare(name)
            ranges = _ranges(env)
            env.close()
    except UnregisteredEnv:
        raise ValueError(
            f"the policy was trained on {name}, which is not installed here, so its ranges cannot be compared"
        ) from None
    return ranges


def _ranges(env: Any) -> dict[str, str]:
    """What actions of -1 and 1 ask each configured actuator for, by its name, as "pos_range [-1.0, 1.0]".

    Empty where actions are not normalised.
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


def _not_a_configuration(config_path: str | os.PathLike[str], error: BaseException) -> str:
    reason = " ".join(str(error).split()).partition(" was raised from the environment creator")[0]
    return f"{config_path}: is no configuration of this robot: {type(error).__name__}: {reason}"


class _Device(dict[str, Any]):
    """A device of a configuration whose driver never reconnects, not while it connects for the first time either."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "robot":
            refuse_reconnecting(value)
        super().__setitem__(key, value)


@contextlib.contextmanager
def _nothing_sent() -> Iterator[None]:
    """Sends nothing but what the drivers do to connect, and nothing more once the block fails.

    RoboHive's constructor makes a step of zeros before any reset, on hardware a jump. And drivers of a robot that was
    not built to the end would move it home when they are collected.
    """
    from robohive.robot.robot import Robot as RoboHiveRobot

    send, start = RoboHiveRobot.hardware_apply_controls, RoboHiveRobot.hardware_init
    started: list[Any] = []

    def start_and_remember(robot: Any, config: dict[str, Any]) -> dict[str, Any]:
        started.append(robot)
        for name in config:
            config[name] = _Device(config[name])
        start(robot, config)
        if silent := [name for name, device in config.items() if not device["robot"].okay()]:
            raise RuntimeError(f"these devices do not answer: {', '.join(silent)}")
        return config

    RoboHiveRobot.hardware_apply_controls = lambda *_, **__: None
    RoboHiveRobot.hardware_init = start_and_remember
    try:
        yield
    except BaseException:
        for robot in started:
            let_go(robot)
        raise
    finally:
        RoboHiveRobot.hardware_apply_controls, RoboHiveRobot.hardware_init = send, start

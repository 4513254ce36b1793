"""RoboHive's environments for the control loop: simulated, or connected to hardware without sending it anything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlhive.core.files import file_sha256
from rlhive.core.pixel_spec import PixelSpec
from rlhive.deploy.drivers import answers, import_optitrack, in_words, keep_still, let_go
from rlhive.deploy.rehearsal import not_a_configuration, rehearse
from rlhive.deploy.robot import RESET_SECONDS
from rlhive.deploy.safety import FaultError
from rlhive.deploy.settings import Settings
from rlhive.deploy.watchdog import check_main_thread, signals_first, watchdog
from rlhive.envs.build import make_bare
from rlhive.envs.importing import quiet

if TYPE_CHECKING:
    from rlhive.policy_fn.policy import Policy


def simulate(name: str, seed: int, pixels: PixelSpec | None = None) -> Any:
    """The simulated environment `name`; `seed` determines its episodes, `pixels` are the images that a policy sees.

    Raises:
        ValueError: no such environment or camera.
        RuntimeError: images are wanted, and no GL backend works here.
    """
    from rlhive.envs.robohive import RoboHive

    return RoboHive(name, seed=seed, pixels=pixels).env


def connect(
    name: str,
    config_path: str | os.PathLike[str],
    *,
    policy: Policy | None = None,
    settings: Settings | None = None,
) -> Any:
    """The environment `name` connected to hardware, which receives only what the drivers send to connect.

    That may move the robot: RoboHive's driver moves a Franka arm home. So everything that can be checked without the
    robot is checked first, in a simulation with the same configuration.

    Args:
        name: id of RoboHive's suites.
        config_path: RoboHive's configuration of the robot: devices, sensors, actuators. RoboHive evaluates it as
            Python, so trust it as you trust code.
        policy: the policy that will run; if it does not fit the robot, nothing is connected.
        settings: how it will run; if they do not fit how the robot is actuated, nothing is connected.

    Raises:
        ValueError: the environment or file does not exist; the file does not configure this robot, changes during the
            checks, lists actuators in another order than the simulator, or with other ranges or another calibration
            than in training, or lists sensors that the drivers do not provide; the policy does not fit (every
            difference is named); a safe action is given for a robot whose actions are velocities; a device returns
            more or fewer values than it has sensors; or this is not the main thread.
        RuntimeError: a driver is not installed or fails, or a device does not answer within `RESET_SECONDS`.
    """
    from rlhive.envs.names import check_name
    from rlhive.envs.simhive import ensure

    check_main_thread("connect")
    check_name(name)
    if not os.path.isfile(config_path):
        raise ValueError(f"{config_path}: there is no such robot configuration")
    ensure()
    # Hashed before it is read: what is recorded later must be what was checked and connected.
    source = {"path": os.path.abspath(config_path), "sha256": file_sha256(config_path)}
    rehearse(name, config_path, policy, settings)
    if file_sha256(config_path) != source["sha256"]:
        raise ValueError(f"{config_path}: changed while it was being checked; connect again")
    with quiet(), _nothing_sent(config_path), signals_first():
        env = _make_connected(name, config_path)
        _check_counts(env.robot.robot_config)
    env.configuration_source = source
    return env


class _InterfaceError(Exception):
    """The driver rejected the settings of its interface, which no one else can check."""


def _make_connected(name: str, config_path: str | os.PathLike[str]) -> Any:
    """Builds the environment on hardware; whatever RoboHive or a driver raises becomes one line."""
    try:
        with watchdog(RESET_SECONDS, "connecting"):
            return make_bare(name, is_hardware=True, config_path=str(config_path))[0]
    except FaultError:
        raise
    except ImportError as error:
        raise RuntimeError(f"a driver of the robot is not installed: {error}") from None
    except _InterfaceError as error:
        raise ValueError(str(error)) from None
    except (Exception, SystemExit) as error:
        raise FaultError("robot_failed", f"connecting failed: {in_words(error)}") from None


def _check_counts(config: dict[str, Any]) -> None:
    """Refuses a device that returns more or fewer values than it has sensors: RoboHive names them by their order."""
    for name, device in config.items():
        kind, expected = device["interface"]["type"], len(device["sensor"])
        if kind == "franka":  # its driver returns the positions, then as many velocities
            expected = 2 * sum(sensor["data_type"] == "qpos" for sensor in device["sensor"])
        found = len(device["sensor_data"]) if expected else 0
        # OptiTrack returns a whole pose; RoboHive takes as many values as there are sensors.
        if found < expected or (found > expected and kind != "optitrack"):
            raise ValueError(
                f"{name} measures {found} values, expected {expected} for the sensors in its configuration"
            )


class _Device(dict[str, Any]):
    """A device of a configuration whose driver is kept still as soon as it exists, so also while it connects."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "robot" and value is not None:
            keep_still(value)
        super().__setitem__(key, value)


@contextlib.contextmanager
def _nothing_sent(config_path: str | os.PathLike[str]) -> Iterator[None]:
    """Blocks all commands except those that the drivers send to connect, and lets go of the robot if the block fails.

    RoboHive's constructor sends a step of zeros before any reset, which would make hardware jump.
    """
    from robohive.robot.robot import Robot as RoboHiveRobot

    send, start = RoboHiveRobot.hardware_apply_controls, RoboHiveRobot.hardware_init
    started: list[Any] = []

    def start_and_remember(robot: Any, config: dict[str, Any]) -> dict[str, Any]:
        started.append(robot)
        for name in config:
            config[name] = _Device(config[name])
        if any(device["interface"]["type"] == "optitrack" for device in config.values()):
            import_optitrack()
        try:
            start(robot, config)
        except (LookupError, TypeError) as error:
            if all("robot" in device for device in config.values()):  # all drivers took their settings
                raise
            raise _InterfaceError(not_a_configuration(config_path, error)) from None
        if silent := [name for name, device in config.items() if not answers(device)]:
            raise FaultError("robot_failed", f"these devices do not answer: {', '.join(silent)}")
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

"""RoboHive's environments for the control loop: simulated, or connected to hardware with nothing sent to it."""

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

    Raises:
        ValueError: no such environment or file, a file that is no configuration of its robot or changes meanwhile,
            lists actuators in another order, or with other ranges or another calibration than those of training, or
            sensors that are not what the drivers give, a policy that does not fit (every difference is named), a safe
            action for a robot whose actions are velocities, or a device that measures another number of values than
            its sensors are; or called in another thread than the main one.
        RuntimeError: a driver is not installed or fails, or a device does not answer within `RESET_SECONDS`.
    """
    from rlhive.envs.names import check_name
    from rlhive.envs.simhive import ensure

    check_main_thread("connect")
    check_name(name)
    if not os.path.isfile(config_path):
        raise ValueError(f"{config_path}: there is no such robot configuration")
    ensure()
    # Of the file as it is now: what is written down later must be what was rehearsed and connected.
    source = {"path": os.path.abspath(config_path), "sha256": file_sha256(config_path)}
    rehearse(name, config_path, policy, settings)
    if file_sha256(config_path) != source["sha256"]:
        raise ValueError(f"{config_path}: was changed while it was looked at; connect again")
    with quiet(), _nothing_sent(), signals_first():
        env = _make_connected(name, config_path)
        _check_counts(env.robot.robot_config)
    env.configuration_source = source
    return env


class _InterfaceError(Exception):
    """The settings of an interface are not those of its driver, which it alone knows."""


def _make_connected(name: str, config_path: str | os.PathLike[str]) -> Any:
    """Builds the environment on hardware; whatever RoboHive and its drivers raise becomes one line."""
    try:
        with watchdog(RESET_SECONDS, "connecting"):
            return make_bare(name, is_hardware=True, config_path=str(config_path))[0]
    except FaultError:
        raise
    except ImportError as error:
        raise RuntimeError(f"a driver of the robot is not installed: {error}") from None
    except _InterfaceError as error:
        raise ValueError(not_a_configuration(config_path, error.__cause__ or error)) from None
    except (Exception, SystemExit) as error:
        raise FaultError("robot_failed", f"connecting failed: {in_words(error)}") from None


def _check_counts(config: dict[str, Any]) -> None:
    """Refuses a device of which the values are not those of its sensors: RoboHive names them by their places."""
    for name, device in config.items():
        kind, expected = device["interface"]["type"], len(device["sensor"])
        if kind == "franka":  # which sends as many velocities behind the positions
            expected = 2 * sum(sensor["data_type"] == "qpos" for sensor in device["sensor"])
        found = len(device["sensor_data"]) if expected else 0
        # Of OptiTrack RoboHive takes as many as there are sensors.
        if found < expected or (found > expected and kind != "optitrack"):
            raise ValueError(
                f"{name} measures {found} values, expected {expected} by the sensors of its configuration"
            )


class _Device(dict[str, Any]):
    """A device of a configuration whose driver is kept still from the beginning, while it connects, too."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "robot" and value is not None:
            keep_still(value)
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
        import_optitrack()
        try:
            start(robot, config)
        except (LookupError, TypeError) as error:
            if all("robot" in device for device in config.values()):  # all drivers took their settings
                raise
            raise _InterfaceError from error
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

"""RoboHive's environments for the control loop: simulated, or connected to hardware with nothing sent to it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from rlhive.core.pixel_spec import PixelSpec
from rlhive.deploy.robot import RESET_SECONDS
from rlhive.deploy.safety import watchdog


def simulate(name: str, seed: int, pixels: PixelSpec | None = None) -> Any:
    """The environment `name` simulated; `seed` decides its episodes, `pixels` are the images that a policy sees.

    Raises:
        ValueError: no such environment or camera.
        RuntimeError: there are images, and no GL backend works here.
    """
    from rlhive.envs.robohive import RoboHive

    return RoboHive(name, seed=seed, pixels=pixels).env


def connect(name: str, config_path: str | os.PathLike[str], *, timeout: float = RESET_SECONDS) -> Any:
    """The environment `name` on hardware, connected, with nothing sent to it but what the drivers do to connect.

    Args:
        name: id of RoboHive's suites.
        config_path: RoboHive's configuration of the robot: devices, sensors, actuators. It is Python that RoboHive
            evaluates: trust it as you trust code.
        timeout: seconds after which a device that does not answer is given up.

    Raises:
        ValueError: no such environment or file.
        RuntimeError: a driver is not installed, or a device does not answer.
    """
    from rlhive.envs.importing import building, import_robohive, quiet
    from rlhive.envs.names import built_name, check_name
    from rlhive.envs.simhive import ensure

    check_name(name)
    if not os.path.isfile(config_path):
        raise ValueError(f"{config_path}: there is no such robot configuration")
    ensure()
    try:
        with quiet(), watchdog(timeout, "connecting"):
            import gymnasium

            import_robohive()
            spec = gymnasium.spec(built_name(name))
            settings: dict[str, Any] = {
                "is_hardware": True,
                "config_path": str(config_path),
                "disable_env_checker": True,
            }
            if (
                "visual_keys" in spec.kwargs
            ):  # as in `rlhive.envs.RoboHive`: images are read by `open_cameras`
                settings["visual_keys"] = None
            with _nothing_sent(), building(spec.entry_point):
                env: Any = gymnasium.make(spec.id, **settings).unwrapped
            devices = env.robot.robot_config.items()
            silent = [device for device, own in devices if not own["robot"].okay()]
    except ImportError as error:
        raise RuntimeError(f"a driver of the robot is not installed: {error}") from None
    if silent:
        raise RuntimeError(f"these devices do not answer: {', '.join(silent)}")
    return env


@contextlib.contextmanager
def _nothing_sent() -> Iterator[None]:
    """RoboHive's constructor makes a step of zeros before any reset: on hardware a jump, so it is not sent."""
    from robohive.robot.robot import Robot as RoboHiveRobot

    send = RoboHiveRobot.hardware_apply_controls
    RoboHiveRobot.hardware_apply_controls = lambda *_, **__: None
    try:
        yield
    finally:
        RoboHiveRobot.hardware_apply_controls = send

"""Compares a robot or environment with what a policy was trained on: names, order, sizes, limits and control period."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.envs.build import action_names, observation_keys


class Interface(NamedTuple):
    """What a policy and a robot must agree on.

    Attributes:
        observation: size of each part by its name, in order; None if unknown.
        action: limits of each action by its name, in order; None if its unit differs.
        dt: control period in seconds; None if unknown.
        pixels: what is known of the images, as `PixelSpec` names it.
        cameras: size (height, width) of each camera's images by its name; None if any size can be rendered.
    """

    observation: dict[str, int] | None
    action: dict[str, tuple[float, float] | None]
    dt: float | None
    pixels: dict[str, Any]
    cameras: dict[str, tuple[int, int] | None]


def differences(trained_on: EnvSpec, robot: Any) -> list[str]:
    """Every difference between what a policy was trained on and a robot, one line each; none if they fit.

    Args:
        trained_on: `policy.spec.env`.
        robot: a live environment of RoboHive or of `rlhive.envs`, an `EnvSpec`, or RoboHive's `Robot` or its
            configuration, which says the names of actuators and cameras alone.

    Raises:
        ValueError: `robot` is none of these.
    """
    expected, found = interface(trained_on), interface(robot)
    lines = _compare_names("action", list(expected.action), list(found.action))
    for name, limits in expected.action.items():
        others = found.action.get(name)
        if others is not None and limits != others:
            lines.append(f"action {name}: limits {list(others)}, but {list(limits or ())} in training")
    if expected.observation is not None and found.observation is not None:
        lines += _compare_names("observation", list(expected.observation), list(found.observation))
        for name, size in expected.observation.items():
            if found.observation.get(name, size) != size:
                lines.append(f"observation {name}: size {found.observation[name]}, but {size} in training")
    if expected.dt and found.dt and not math.isclose(expected.dt, found.dt, rel_tol=1e-9):
        lines.append(f"dt: {found.dt} s, but {expected.dt} s in training")
    return lines + _compare_images(expected, found)


def check_same_environment(installed: EnvSpec, trained_on: EnvSpec) -> None:
    """Refuses an environment that changed since the policy was trained.

    Raises:
        ValueError: naming what differs.
    """
    if installed.name != trained_on.name:
        raise ValueError(f"the environment is {installed.name}, but the policy is of {trained_on.name}")
    if lines := differences(trained_on, installed):
        raise ValueError(f"{trained_on.name} does not fit the policy: {'; '.join(lines)}")
    installed_values, trained_values = installed.to_dict(), trained_on.to_dict()
    differing = [name for name, value in trained_values.items() if installed_values[name] != value]
    if differing:
        raise ValueError(
            f"{trained_on.name} as installed here differs from the one the policy was trained on "
            f"in {', '.join(differing)}"
        )


def interface(robot: Any) -> Interface:
    """The interface of a spec, environment, `Robot` or robot configuration.

    Raises:
        ValueError: `robot` is none of these.
    """
    robot = getattr(robot, "unwrapped", robot)
    named = (robot, getattr(robot, "env_spec", None), getattr(robot, "spec", None))
    for spec in named:
        if isinstance(spec, EnvSpec):
            return _of_spec(spec)
    config = robot if isinstance(robot, Mapping) else getattr(robot, "robot_config", None)
    if isinstance(config, Mapping):
        return Interface(None, dict.fromkeys(_actuators(config)), None, {}, _cameras(config))
    if hasattr(robot, "obs_dict") and hasattr(robot, "sim"):
        return _of_robohive(robot)
    raise ValueError(
        "expected an environment of RoboHive or rlhive.envs, an EnvSpec, or RoboHive's Robot or its configuration, "
        f"got {type(robot).__name__}"
    )


def _of_spec(spec: EnvSpec) -> Interface:
    sizes = [stop - start for start, stop in spec.observation_slices]
    limits = zip(spec.action_low, spec.action_high, strict=True)
    images = {} if spec.pixels is None else spec.pixels.to_dict()
    size = images.pop("height", 0), images.pop("width", 0)
    return Interface(
        dict(zip(spec.observation_keys, sizes, strict=True)),
        dict(zip(spec.action_names, limits, strict=True)),
        spec.dt,
        images,
        dict.fromkeys(images.get("cameras", ()), size),
    )


def _of_robohive(env: Any) -> Interface:
    model = env.sim.model
    limits = zip(env.action_space.low.tolist(), env.action_space.high.tolist(), strict=True)
    keys = env.obs_keys if env.spec is None else observation_keys(env.spec.id, env)
    sizes = {key: int(np.size(env.obs_dict[key])) for key in keys}
    pixels: dict[str, Any] = {}
    cameras: dict[str, tuple[int, int] | None] = dict.fromkeys(
        model.camera(index).name for index in range(model.ncam)
    )
    if env.robot.is_hardware:
        cameras = _cameras(env.robot.robot_config)
    elif env.visual_keys:
        pixels, cameras = {"quality": "full"}, _visual_keys(env.visual_keys)
    return Interface(sizes, dict(zip(action_names(env), limits, strict=True)), float(env.dt), pixels, cameras)


def _visual_keys(keys: Sequence[str]) -> dict[str, tuple[int, int] | None]:
    """Cameras and their sizes in RoboHive's names of images, such as "rgb:left_cam:240x424:2d"."""
    cameras: dict[str, tuple[int, int] | None] = {}
    for key in keys:
        kind, _, rest = key.partition(":")
        if kind == "rgb":
            name, size, _ = rest.rsplit(":", 2)
            height, _, width = size.partition("x")
            cameras[name] = (int(height), int(width))
    return cameras


def _cameras(config: Mapping[str, Any]) -> dict[str, tuple[int, int] | None]:
    """The cameras of a robot; the size is that of the image a connected camera shows, else None."""
    cameras: dict[str, tuple[int, int] | None] = {}
    for name, device in config.items():
        if isinstance(device, Mapping) and device.get("interface", {}).get("type") == "realsense":
            image = device["robot"].get_sensors()["rgb"] if device.get("robot") else None
            cameras[name] = None if image is None else image.shape[:2]
    return cameras


def _actuators(config: Mapping[str, Any]) -> list[str]:
    devices = [device.get("actuator", []) for device in config.values() if isinstance(device, Mapping)]
    actuators = [actuator for device in devices if isinstance(device, list) for actuator in device]
    # A configured robot knows the simulator's order, which is the order of the actions.
    return [one["name"] for one in sorted(actuators, key=lambda one: one.get("sim_id", 0))]


def _compare_images(expected: Interface, found: Interface) -> list[str]:
    lines = []
    for name, size in expected.cameras.items():
        shown = found.cameras.get(name)
        if name not in found.cameras:
            lines.append(f"camera {name}: missing")
        elif shown is not None and shown != size:
            lines.append(f"camera {name}: images of {list(shown)}, but {list(size or ())} in training")
    for name, value in found.pixels.items() if expected.cameras else ():
        if value != expected.pixels[name]:
            lines.append(f"images, {name}: {value}, but {expected.pixels[name]} in training")
    return lines


def _compare_names(what: str, expected: Sequence[str], found: Sequence[str]) -> list[str]:
    lines = [f"{what} {name}: missing" for name in expected if name not in found]
    lines += [f"{what} {name}: not known to the policy" for name in found if name not in expected]
    if not lines and list(expected) != list(found):
        lines.append(f"{what}s are in the order {', '.join(found)}, but {', '.join(expected)} in training")
    return lines

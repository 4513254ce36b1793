"""The images of a policy's cameras: drawn as in training in simulation, read from RoboHive's drivers on a robot."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.render import View


class Image(NamedTuple):
    """One camera's image: `pixels` u8 `[H, W, 3]`, None before the first one; `age` in seconds, NaN if unknown."""

    pixels: np.ndarray | None
    age: float


Cameras = Callable[[], dict[str, Image]]


def open_cameras(env: Any, spec: EnvSpec) -> Cameras:
    """A function that gives the current image of each of the policy's cameras, none for a policy without images.

    Args:
        env: an open RoboHive environment, unwrapped.
        spec: what the policy reads.

    Raises:
        ValueError: the robot lacks one of the cameras, or applies a scale or offset to its images.
    """
    if spec.pixels is None:
        return dict
    if not env.robot.is_hardware:
        return _drawn(View(env.spec.id, env, spec.pixels), spec.pixels)
    for name in spec.pixels.cameras:
        for channel in env.robot.robot_config[name].get("cam", ()):
            if channel["hdr_id"] == "rgb" and (channel["scale"], channel["offset"]) != (1, 0):
                raise ValueError(
                    f"camera {name}: its scale and offset must be 1 and 0; policies see images as they are"
                )
    return _read({name: env.robot.robot_config[name]["robot"] for name in spec.pixels.cameras})


def stack_cameras(images: Sequence[np.ndarray], pixels: PixelSpec) -> np.ndarray:
    """The cameras' images `[H, W, 3]` as one u8 `[cameras, H, W, 3]`; `cameras` is 0 for a policy without images."""
    return np.array(images, np.uint8).reshape(len(pixels.cameras), pixels.height, pixels.width, 3)


def _drawn(view: View, pixels: PixelSpec) -> Cameras:
    def draw() -> dict[str, Image]:
        images = np.empty((len(pixels.cameras), pixels.height, pixels.width, 3), np.uint8)
        view.draw(images)
        return {name: Image(image, math.nan) for name, image in zip(pixels.cameras, images, strict=True)}

    return draw


def _read(drivers: Mapping[str, Any]) -> Cameras:
    """Reads the drivers directly: `Robot.get_visual_sensors` copies any dtype into uint8 and drops the time stamps."""

    def read() -> dict[str, Image]:
        return {name: _show(driver) for name, driver in drivers.items()}

    return read


def _show(driver: Any) -> Image:
    shown = driver.get_sensors()
    pixels = shown["rgb"]
    # Only RoboHive's `RealsenseAPI` has this method; it returns bytes as uint16 because it stacks them with the depth.
    if hasattr(driver, "get_rgbd") and pixels.max(initial=0) <= 255:
        pixels = pixels.astype(np.uint8)
    return Image(pixels, _age(shown["time"]))


def _age(stamp: Any) -> float:
    """Seconds since a time stamp; NaN if the driver has none (`RealsenseAPI` gives 0)."""
    if not isinstance(stamp, datetime.datetime):
        return math.nan
    return (datetime.datetime.now(datetime.UTC) - stamp).total_seconds()

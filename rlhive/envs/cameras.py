"""What a policy's cameras show: drawn in simulation as in training, or read from RoboHive's drivers."""

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
    """What one camera shows: `pixels` u8 `[H, W, 3]`, None before the first; their `age` in seconds, else NaN."""

    pixels: np.ndarray | None
    age: float


Cameras = Callable[[], dict[str, Image]]


def open_cameras(env: Any, spec: EnvSpec) -> Cameras:
    """A function that gives the present image of each of the policy's cameras; without images it gives none.

    Args:
        env: a live RoboHive environment, not wrapped.
        spec: what the policy reads.

    Raises:
        ValueError: the robot has no such camera, or changes its images by a scale or offset.
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
    """u8 `[cameras, H, W, 3]` of the images of each camera `[H, W, 3]`; a blind policy has none."""
    return np.array(images, np.uint8).reshape(len(pixels.cameras), pixels.height, pixels.width, 3)


def _drawn(view: View, pixels: PixelSpec) -> Cameras:
    def draw() -> dict[str, Image]:
        images = np.empty((len(pixels.cameras), pixels.height, pixels.width, 3), np.uint8)
        view.draw(images)
        return {name: Image(image, math.nan) for name, image in zip(pixels.cameras, images, strict=True)}

    return draw


def _read(drivers: Mapping[str, Any]) -> Cameras:
    """By the drivers themselves: `Robot.get_visual_sensors` copies any dtype into uint8, and drops the time stamps."""

    def read() -> dict[str, Image]:
        return {name: _show(driver) for name, driver in drivers.items()}

    return read


def _show(driver: Any) -> Image:
    shown = driver.get_sensors()
    pixels = shown["rgb"]
    # RoboHive's `RealsenseAPI`, which alone has this method, gives bytes in uint16 because depth lies beside them.
    if hasattr(driver, "get_rgbd") and pixels.max(initial=0) <= 255:
        pixels = pixels.astype(np.uint8)
    return Image(pixels, _age(shown["time"]))


def _age(stamp: Any) -> float:
    """Seconds since a time stamp; NaN where a driver has none (`RealsenseAPI` says 0)."""
    if not isinstance(stamp, datetime.datetime):
        return math.nan
    return (datetime.datetime.now(datetime.UTC) - stamp).total_seconds()

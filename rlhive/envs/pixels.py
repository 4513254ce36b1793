"""Which images an environment has, without building it."""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Sequence
from numbers import Integral

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.names import built_name, check_name


@functools.cache
def _own_pixels() -> dict[str, PixelSpec]:
    text = (importlib.resources.files("rlhive.envs") / "own_pixels.json").read_text()
    return {name: PixelSpec.from_dict(values) for name, values in json.loads(text).items()}


def own_pixels(name: str) -> PixelSpec | None:
    """RoboHive's own images of an id whose name asks for some (`…_v2d-v0`, `…_vr3m18-v0`, …); None for others."""
    return _own_pixels().get(built_name(name))


@functools.cache
def model_cameras(name: str) -> tuple[str, ...]:
    """The named cameras of the model of `name`, which `check_name` accepts."""
    text = (importlib.resources.files("rlhive.envs") / "model_cameras.json").read_text()
    built = built_name(name)
    return next(tuple(group["cameras"]) for group in json.loads(text) if built in group["environments"])


def check_camera_names(name: str, cameras: Sequence[str]) -> None:
    """Refuses cameras that the model of `name` lacks.

    Raises:
        ValueError: there is such a camera; the message names the first, and those that exist.
    """
    known = model_cameras(name)
    for camera in cameras:
        if camera not in known:
            raise ValueError(no_camera(name, camera, known))


def no_camera(name: str, camera: str, known: Sequence[str]) -> str:
    """The message for a `camera` that environment `name` lacks; its model has those in `known`."""
    return f"{name} has no camera {camera!r}; it has {', '.join(known) or 'none with a name'}"


def choose_pixels(
    name: str,
    *,
    from_pixels: bool = False,
    cameras: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    quality: str = "full",
    depth: bool = False,
    frames: int = 1,
) -> PixelSpec | None:
    """The images of environment `name`: its own or those asked for; None if it has none.

    Args:
        name: id of RoboHive's suites.
        from_pixels: whether an id without images of its own gets some; then `cameras` and `image_size` are needed.
        cameras: names of cameras in the model; None for the id's own.
        image_size: height and width in pixels, one number for a square; None for the id's own.
        quality: "full" or "fast", see `PixelSpec`.
        depth: whether each image comes with a depth image.
        frames: how many successive images are stacked.

    Raises:
        ValueError: an unknown id, or invalid cameras, image size or quality.
    """
    check_name(name)
    own = own_pixels(name)
    if own is None and not from_pixels:
        if cameras or image_size is not None or depth or frames != 1 or quality != "full":
            raise ValueError(f"{name} has no images of its own: from_pixels=True adds them")
        return None
    size = _height_and_width(image_size)
    if isinstance(cameras, str):
        raise ValueError(f"cameras must be a list of names, got the string {cameras!r}")
    if own is not None:
        cameras = own.cameras if cameras is None else cameras
        size = size or (own.height, own.width)
    elif not cameras or size is None:
        raise ValueError(
            f"{name} has no images of its own: from_pixels=True needs cameras and an image_size, "
            f"got cameras={cameras}, image_size={image_size}"
        )
    check_camera_names(name, cameras)
    return PixelSpec(cameras, *size, quality, depth, frames)


def _height_and_width(image_size: object) -> tuple[int, int] | None:
    if image_size is None:
        return None
    size = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(size) != 2 or not all(isinstance(side, Integral) and not isinstance(side, bool) for side in size):
        raise ValueError(f"image_size must be one number or a height and a width, got {image_size!r}")
    return int(size[0]), int(size[1])

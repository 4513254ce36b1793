"""What the images of an environment are. Free of torch, as `env_spec` is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from rlhive.core.converters import strings

QUALITIES = ("full", "fast")
MAX_SIDE, MAX_FRAMES = 8192, 100  # more is a typing error, and more than GL drivers can render


def _between(least: int, most: int) -> Any:
    return attrs.validators.and_(attrs.validators.ge(least), attrs.validators.le(most))


@attrs.frozen
class PixelSpec:
    """The images that a policy sees; plain values only, so that it converts to JSON directly.

    Attributes:
        cameras: names of the model's cameras, in the order of the images; with none the policy is blind, as a
            baseline for one that sees.
        height: of each image, in pixels.
        width: of each image, in pixels.
        quality: "full" draws what RoboHive draws, bit for bit; "fast" leaves out shadows, reflections, the sky and
            multisampling, which take nine tenths of the time where no GPU draws.
        depth: whether a depth image comes with each.
        frames: how many images in time, the newest last, are stacked along the colours; at the start of an episode the
            first one is repeated.
    """

    cameras: tuple[str, ...] = attrs.field(converter=strings)
    height: int = attrs.field(validator=_between(1, MAX_SIDE))
    width: int = attrs.field(validator=_between(1, MAX_SIDE))
    quality: str = "full"
    depth: bool = False
    frames: int = attrs.field(default=1, validator=_between(1, MAX_FRAMES))

    def __attrs_post_init__(self) -> None:
        check_each_once(self.cameras)
        if self.quality not in QUALITIES:
            raise ValueError(f"the quality of images is {' or '.join(QUALITIES)}, got {self.quality!r}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the images of one step: (cameras, height, width, 3 * frames)."""
        return (len(self.cameras), self.height, self.width, 3 * self.frames)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PixelSpec:
        """The inverse of `to_dict`."""
        return cls(**values)


def check_each_once(cameras: Sequence[str]) -> None:
    """Refuses camera names that occur twice.

    Raises:
        ValueError: with all of them.
    """
    if len(set(cameras)) < len(cameras):
        raise ValueError(f"cameras are each named once; got {', '.join(cameras)}")


def to_pixel_spec(values: PixelSpec | dict[str, Any] | None) -> PixelSpec | None:
    """Converts a dict read from JSON; for attrs fields."""
    return PixelSpec.from_dict(values) if isinstance(values, dict) else values


def camera_key(name: str, pixels: PixelSpec) -> str:
    """RoboHive's name for the colour images of a camera."""
    return f"rgb:{name}:{pixels.height}x{pixels.width}:2d"

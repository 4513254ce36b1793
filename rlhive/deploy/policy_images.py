"""What a policy sees in the loop: the images of each reading, checked, stacked and counted."""

from __future__ import annotations

import numpy as np

from rlhive.core.pixel_spec import PixelSpec
from rlhive.deploy.readings import Reading
from rlhive.deploy.safety import ImageWatch
from rlhive.envs.cameras import stack_cameras
from rlhive.envs.frames import Frames


class PolicyImages:
    """Turns readings into what a policy sees.

    Args:
        pixels: the images that the policy was trained on.
        staleness: as of `ImageWatch`.
        frozen: as of `ImageWatch`.

    Attributes:
        repeated: for each camera, how many images were the one before once more.
    """

    def __init__(self, pixels: PixelSpec, staleness: float, frozen: float) -> None:
        self._pixels, self._frames = pixels, Frames(pixels)
        self._watch = ImageWatch((pixels.height, pixels.width, 3), staleness, frozen)
        self._shown: np.ndarray | None = None
        self.repeated = dict.fromkeys(pixels.cameras, 0)

    def stack(self, reading: Reading) -> np.ndarray:
        """The images as the policy sees them, u8 `[cameras, H, W, 3 * frames]`.

        Raises:
            FaultError: as of `ImageWatch.check`.
        """
        shown = stack_cameras(self._watch.check(reading.time, reading.images), self._pixels)
        if self._shown is not None:
            for name, new, old in zip(self.repeated, shown, self._shown, strict=True):
                self.repeated[name] += np.array_equal(new, old)
        self._shown = shown
        return self._frames.append(shown)


def newest(seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of stacked images "pixels" the last ones in time, u8 `[cameras, H, W, 3]`."""
    return {name: pixels[..., -3:] for name, pixels in seen.items()}

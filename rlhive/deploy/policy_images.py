"""The images that a policy sees in the loop: those of each reading, checked, stacked and compared."""

from __future__ import annotations

import numpy as np

from rlhive.core.pixel_spec import PixelSpec
from rlhive.deploy.readings import Reading
from rlhive.deploy.safety import ImageWatch
from rlhive.envs.cameras import stack_cameras
from rlhive.envs.frames import Frames


class PolicyImages:
    """Turns readings into the images that a policy sees.

    Args:
        pixels: format of the images that the policy was trained on.
        staleness: as for `ImageWatch`.
        frozen: as for `ImageWatch`.

    Attributes:
        repeated: for each camera, how many images were equal to the one before.
    """

    def __init__(self, pixels: PixelSpec, staleness: float, frozen: float) -> None:
        self._pixels, self._frames = pixels, Frames(pixels)
        self._watch = ImageWatch((pixels.height, pixels.width, 3), staleness, frozen)
        self._shown: np.ndarray | None = None
        self.repeated = dict.fromkeys(pixels.cameras, 0)

    def stack(self, reading: Reading) -> np.ndarray:
        """The images as the policy sees them, u8 `[cameras, H, W, 3 * frames]`.

        Raises:
            FaultError: as in `ImageWatch.check`.
        """
        shown = stack_cameras(self._watch.check(reading.time, reading.images), self._pixels)
        if self._shown is not None:
            for name, new, old in zip(self.repeated, shown, self._shown, strict=True):
                self.repeated[name] += np.array_equal(new, old)
        self._shown = shown
        return self._frames.append(shown)


def newest(seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The latest of the stacked images "pixels", u8 `[cameras, H, W, 3]`."""
    return {name: pixels[..., -3:] for name, pixels in seen.items()}

"""Stacks of the last images in time, as a policy sees them."""

from __future__ import annotations

from collections import deque

import numpy as np

from rlhive.core.pixel_spec import PixelSpec


class Frames:
    """The last images of an episode along the colours, the newest last; at the start the first one is repeated."""

    def __init__(self, pixels: PixelSpec) -> None:
        self._frames: deque[np.ndarray] = deque(maxlen=pixels.frames)

    def append(self, newest: np.ndarray, *, again: bool = False) -> np.ndarray:
        """u8 `[cameras, H, W, 3 * frames]` for the newest images `[cameras, H, W, 3]`.

        Args:
            newest: kept, not copied.
            again: whether they show the same moment as the last ones, which they then replace.
        """
        if again:
            self._frames.pop()
        self._frames.append(newest)
        missing = (self._frames.maxlen or 1) - len(self._frames)
        return np.concatenate([self._frames[0]] * missing + list(self._frames), axis=-1)

"""Images in h5 files: one uint8 data set per camera with a row per state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import h5py
import numpy as np

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data.h5 import read


def read_images(
    found: Mapping[str, h5py.Dataset], keys: Sequence[str], pixels: PixelSpec, rows: int, where: str
) -> np.ndarray:
    """The images of one trial, uint8 `[rows, cameras, H, W, 3]`, read one camera at a time.

    Args:
        found: the trial's data sets by name.
        keys: names of the cameras' data sets, in the order of `pixels.cameras`.
        pixels: describes the images.
        rows: number of states.
        where: file and trial, for messages.

    Raises:
        LoadError: one is missing, damaged, or has the wrong shape or type.
    """
    images = np.empty((rows, len(keys), pixels.height, pixels.width, 3), np.uint8)
    expected = (rows, pixels.height, pixels.width, 3)
    for index, key in enumerate(keys):
        if key not in found:
            there = ", ".join(name for name in found if "rgb" in name) or "none"
            raise LoadError(f"{where}: has no images {key}, but {there}")
        item = found[key]
        if item.dtype != np.uint8 or item.shape != expected:
            raise LoadError(
                f"{where}/{key}: must be uint8 {list(expected)}, is {item.dtype} {list(item.shape or ())}"
            )
        images[:, index] = read(item, f"{where}/{key}")
    return images


def is_camera(dataset: h5py.Dataset) -> bool:
    """Whether it holds colour frames, uint8 `[T, H, W, 3]`."""
    return dataset.dtype == np.uint8 and dataset.ndim == 4 and dataset.shape[-1] == 3

"""From the images of an episode to columns of a data set: features of a frozen encoder, or the images themselves.

Both match the replay of online training: features follow the observation in one vector, as in
`rlhive.training.encoded_env`, and images for a learning encoder are "pixels".
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import torch

from rlhive.core.convolutions import exact_convolutions
from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data.episode import Episode
from rlhive.policy_fn.encoders import Encoder

Key = tuple[str, ...]
Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]
_BATCH = 64  # steps encoded at once


def check_images(
    source: object, recorded: PixelSpec | None, pixels: PixelSpec | None, encoder: Encoder | None
) -> PixelSpec | None:
    """Which images to build a data set from: the requested ones, or if none are, those of the source without depth.

    Args:
        source: for messages.
        recorded: the images that the source says it has; None if it does not say.
        pixels: the requested images; None for none.
        encoder: of the images.

    Raises:
        LoadError: the source has other images than the requested ones, or there are no images to encode.
    """
    if pixels is None:
        if encoder is None:
            return None
        if recorded is None:
            raise LoadError(f"{source}: does not say which images it has; name them with pixels=PixelSpec(…)")
        return attrs.evolve(recorded, depth=False)
    if pixels.depth:
        raise LoadError(f"{source}: depth images are not read into a data set; leave out depth=True")
    if recorded is None and pixels.quality != "full":
        raise LoadError(
            f"{source}: does not say the quality of its images, so it is assumed to be full, as RoboHive draws; "
            f"{pixels.quality} images were requested"
        )
    told = recorded or pixels
    missing = [name for name in pixels.cameras if name not in told.cameras]
    have, want = ((of.height, of.width, of.quality) for of in (told, pixels))
    if missing or have != want:
        raise LoadError(
            f"{source}: has {told.quality} images {told.height}x{told.width} of {', '.join(told.cameras)}; "
            f"{pixels.quality} images {pixels.height}x{pixels.width} of {', '.join(pixels.cameras)} were requested"
        )
    return pixels


def make_encode(encoder: Encoder, device: str | torch.device = "cpu") -> Encode:
    """`encode(observations f32 [T, O], images u8 [T, cameras, H, W, C]) -> f32 [T, O + F]`, in batches.

    Raises:
        LoadError: the weights are missing.
    """
    params = encoder.init(torch.Generator()).to(device)

    @torch.no_grad()
    @exact_convolutions()
    def encode(observations: np.ndarray, images: np.ndarray) -> np.ndarray:
        blocks = []
        for start in range(0, len(images), _BATCH):
            rows = slice(start, start + _BATCH)
            features = encoder.apply(params, torch.from_numpy(images[rows]).to(device)).cpu().numpy()
            blocks.append(np.concatenate([observations[rows], features], axis=1))
        return np.concatenate(blocks)

    return encode


def make_columns(episode: Episode, frames: int, encode: Encode | None) -> dict[Key, np.ndarray]:
    """The transitions of an episode, `[T, ...]` each, by the keys of `rlhive.core.replay`.

    Args:
        episode: with or without images.
        frames: how many images to stack along the colour channels.
        encode: appends features of the images to the observation; None keeps the images as "pixels".
    """
    done = episode.terminated.copy()
    done[-1] = True  # a trial without a termination was truncated; "done" does not stop its bootstrapping
    states = {"observation": episode.observations}
    if episode.images is not None:
        pixels = stack_frames(episode.images, frames)
        seen = {"pixels": pixels} if encode is None else {"observation": encode(episode.observations, pixels)}
        states |= seen
    columns: dict[Key, np.ndarray] = {(key,): rows[:-1] for key, rows in states.items()}
    columns |= {("next", key): rows[1:] for key, rows in states.items()}
    columns |= {
        ("action",): episode.actions,
        ("next", "terminated"): episode.terminated,
        ("next", "done"): done,
    }
    return columns | ({} if episode.rewards is None else {("next", "reward"): episode.rewards})


def stack_frames(images: np.ndarray, frames: int) -> np.ndarray:
    """Stacks each image with the ones before it along the colour channels, newest last; the first one is repeated.

    Args:
        images: uint8 `[T, cameras, H, W, 3]` of one episode.
        frames: how many to stack.

    Returns:
        uint8 `[T, cameras, H, W, 3 * frames]`.
    """
    times = np.arange(len(images))
    if frames == 1:
        return images
    return np.concatenate([images[np.maximum(times - back, 0)] for back in reversed(range(frames))], axis=-1)

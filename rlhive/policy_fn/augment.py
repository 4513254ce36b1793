"""Random shifts of images (DrQ, Kostrikov 2020, https://arxiv.org/abs/2004.13649)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

PAD = 4  # pixels, the largest shift


def draw_shift(generator: Generator, batch_size: int) -> Tensor:
    """Shifts for `random_shift`: int64 `[B, 2]`, uniform in 0..2 PAD."""
    return torch.randint(2 * PAD + 1, (batch_size, 2), generator=generator, device=generator.device)


def random_shift(pixels: Tensor, shift: Tensor) -> Tensor:
    """Moves each image by up to `PAD` pixels; pixels from outside the image repeat its edge.

    Equals padding each side by `PAD` with the edge's values and cropping at `shift`; works under `torch.func.vmap` too.

    Args:
        pixels: `[B, cameras, H, W, C]`, any dtype.
        shift: int64 `[B, 2]`, rows and columns in 0..2 PAD, as `draw_shift` draws; `PAD` leaves the image where it is.

    Returns:
        As `pixels`; all cameras of a step and all frames of a stack move together.
    """
    height, width = pixels.shape[-3:-1]
    rows = _source(height, shift[:, 0])
    columns = _source(width, shift[:, 1])
    batch = torch.arange(pixels.shape[0], device=pixels.device)
    images = pixels.movedim(1, 3)  # [B, H, W, cameras, C]
    return images[batch[:, None, None], rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def _source(length: int, shift: Tensor) -> Tensor:
    """Where each row, or column, comes from: `[B, length]`."""
    indices = torch.arange(length, device=shift.device) + shift[:, None] - PAD
    return indices.clamp(0, length - 1)
